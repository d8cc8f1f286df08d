//! What a file may make us do, whatever it claims. Published checkpoints stay far below each of these.

/// Bytes of one pickle, unpacked. That of a ViT with its optimiser has 100 kB.
pub(crate) const PICKLE: u64 = 256 << 20;

/// Values of one pickle. A tensor takes about 15 of them; each takes 32 bytes of memory.
pub(crate) const VALUES: usize = 4 << 20;

/// Values that wait on the pickle's stack. Dicts and lists are written in batches of 1000.
pub(crate) const STACK: usize = 1 << 18;

/// Open brackets of the pickle's stack.
pub(crate) const MARKS: usize = 1 << 10;

/// Values that the pickle has numbered for use further on.
pub(crate) const MEMO: usize = VALUES;

/// Bytes of a text, or of a string of bytes, that is kept; longer ones are passed over.
pub(crate) const TEXT: u64 = 1 << 20;

/// Bytes of the full name of a class or function.
pub(crate) const CLASS: usize = 1 << 8;

/// Bytes of the name of a storage, of an archive's entry, or of a flattened tensor.
pub(crate) const NAME: usize = 1 << 10;

/// Dimensions of a tensor. PyTorch has 64; models use 6 at most.
pub(crate) const DIMENSIONS: usize = 32;

/// Dicts within dicts, when names are made of them.
pub(crate) const DEPTH: usize = 64;

/// Bytes that the names in a state dict take together; 10,000 tensors need less than 1 MB.
pub(crate) const NAMES: usize = 16 << 20;

/// Bytes of the archive's directory.
pub(crate) const DIRECTORY: u64 = 64 << 20;

/// Bytes that unpacked entries may have for each byte of the file: weights hardly shrink, and torch packs none.
pub(crate) const UNPACKED: u64 = 16;

/// Bytes of tensors for each byte of storages: a few names may share a storage, in several layouts.
pub(crate) const SHARED: u64 = 4;

/// Bytes that unpacking and expanding may add to a file of any size.
pub(crate) const SPARE: u64 = 16 << 20;
