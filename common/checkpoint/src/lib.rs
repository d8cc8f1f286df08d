//! Weights files on disk: where they are, of which kind, and PyTorch's pickles read without running them.
//!
//! A pickle is a program. This reader carries out only those of its operations that build data; what it calls by name
//! is compared with a short list of names that mean tensors and dicts, and is otherwise passed over.
//!
//! | module | |
//! |---|---|
//! | `find` | the file of a backbone, by name |
//! | `folder` | the folder of a published model: which files are read, and what they are together |
//! | `format` | its kind, by content |
//! | `checkpoint` | a file that has been read: values, and numbers on demand |
//! | `archive`, `zip` | the format of torch 1.6 and later |
//! | `legacy` | the format before that |
//! | [`pickle`] | the values |
//! | `tensor`, `dtype` | views of storages |
//! | `safe` | safetensors files |
//! | [`adapter`] | adapters of HF PEFT |
//! | `state_dict` | which values are the model's |
//! | `source` | bytes, read where they are wanted |
//! | `limits` | what a file may make us do |

pub mod adapter;
mod archive;
mod checkpoint;
mod dtype;
mod error;
mod find;
mod folder;
mod format;
mod legacy;
mod limits;
pub mod pickle;
mod safe;
mod source;
mod state_dict;
mod tensor;
mod zip;

pub use checkpoint::Checkpoint;
pub use dtype::Dtype;
pub use error::CheckpointError;
pub use find::{EXTENSIONS, find};
pub use folder::ModelFolder;
pub use format::Format;
pub use safe::{SafeFile, View};
pub use state_dict::{KEYS, Skipped, StateDict};
pub use tensor::Tensor;
