//! The operations of protocols 2 to 5, as far as Python's pickler writes them.
//!
//! Each costs a value of constant size and what its own bytes hold, so a pickle cannot make us allocate more than a
//! multiple of its length, and there is no recursion that could exhaust our own stack.

use std::io;

use super::bytes::Bytes;
use super::rebuild;
use super::stack::Machine;
use super::tree::{Node, Tree};
use crate::error::Read;
use crate::limits;

/// Reads one pickle, up to and with its last byte, into `tree`, whose root it becomes.
pub(crate) fn run<R: io::Read>(bytes: &mut Bytes<R>, tree: &mut Tree) -> Read<()> {
    let mut machine = Machine::new(bytes, tree);
    while machine.step()? {}
    Ok(())
}

impl<R: io::Read> Machine<'_, R> {
    /// Carries out one operation; whether there is another.
    fn step(&mut self) -> Read<bool> {
        self.at = self.bytes.offset();
        match self.bytes.byte()? {
            0x80 => match self.bytes.byte()? {
                2..=5 => {}
                version => return Err(self.fault(format!("a pickle of protocol {version}; expected 2 to 5"))),
            },
            // A frame only says how much to read ahead.
            0x95 => drop(self.bytes.array::<8>()?),
            b'.' => {
                let root = self.pop()?;
                self.tree.set_root(root);
                return Ok(false);
            }
            b'(' if self.marks.len() == limits::MARKS => {
                return Err(
                    self.fault(format!("brackets nested deeper than {}; no checkpoint needs that", limits::MARKS))
                );
            }
            b'(' => self.marks.push(self.stack.len()),
            b'0' if self.marks.last() == Some(&self.stack.len()) => drop(self.marks.pop()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.bracket()?),
            b'2' => {
                let top = self.top()?;
                self.push_id(top)?;
            }
            b'N' => self.push_id(Tree::NONE)?,
            0x88 => self.push_id(Tree::TRUE)?,
            0x89 => self.push_id(Tree::FALSE)?,
            b'J' => self.int(|b| Ok(i32::from_le_bytes(b.array()?).into()))?,
            b'K' => self.int(|b| Ok(b.byte()?.into()))?,
            b'M' => self.int(|b| Ok(u16::from_le_bytes(b.array()?).into()))?,
            0x8a => self.long(1)?,
            0x8b => self.long(4)?,
            b'G' => {
                let number = f64::from_be_bytes(self.bytes.array()?);
                self.push(Node::Float(number))?;
            }
            0x8c | b'U' => self.text(1)?,
            b'X' | b'T' => self.text(4)?,
            0x8d => self.text(8)?,
            b'C' => self.blob(1)?,
            b'B' => self.blob(4)?,
            0x8e | 0x96 => self.blob(8)?,
            b']' => self.push(Node::List(Vec::new()))?,
            b'}' => self.push(Node::Dict(Vec::new()))?,
            0x8f => self.push(Node::Set(Vec::new()))?,
            b')' => self.push(Node::Tuple([].into()))?,
            0x85 => self.tuple_of(1)?,
            0x86 => self.tuple_of(2)?,
            0x87 => self.tuple_of(3)?,
            b't' => {
                let items = self.bracket()?;
                self.push(Node::Tuple(items.into()))?;
            }
            b'l' => {
                let items = self.bracket()?;
                self.push(Node::List(items))?;
            }
            0x91 => {
                let items = self.bracket()?;
                self.push(Node::Set(items))?;
            }
            b'd' => {
                let items = self.bracket()?;
                self.push(Node::Dict(Vec::new()))?;
                self.put_pairs(&items)?;
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(&[item])?;
            }
            b'e' | 0x90 => {
                let items = self.bracket()?;
                self.extend(&items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.put_pairs(&[key, value])?;
            }
            b'u' => {
                let items = self.bracket()?;
                self.put_pairs(&items)?;
            }
            b'c' => {
                let (module, name) = (self.bytes.line()?, self.bytes.line()?);
                let name = format!("{}.{}", String::from_utf8_lossy(&module), String::from_utf8_lossy(&name));
                self.push(Node::Global(name.into()))?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Node::Text(module), Node::Text(name)) = (self.tree.node(module), self.tree.node(name)) else {
                    return Err(self.fault("expected the texts of a module and a name"));
                };
                if module.len() + name.len() > limits::CLASS {
                    return Err(self.fault(format!("expected a name of at most {} bytes", limits::CLASS)));
                }
                let name = format!("{module}.{name}");
                self.push(Node::Global(name.into()))?;
            }
            // A call, and the making of an object: data where they are known to mean data, nothing otherwise.
            b'R' | 0x81 => {
                let (arguments, callee) = (self.pop()?, self.pop()?);
                self.call(callee, arguments)?;
            }
            0x92 => {
                let (_named, arguments, callee) = (self.pop()?, self.pop()?, self.pop()?);
                self.call(callee, arguments)?;
            }
            // The state of an object, whose attributes nobody asks for.
            b'b' => {
                self.pop()?;
                self.top()?;
            }
            b'Q' => {
                let named = self.pop()?;
                let node = rebuild::storage(self.tree, named).map_err(|problem| self.fault(problem))?;
                self.push(node)?;
            }
            b'h' => self.get(|b| Ok(b.byte()?.into()))?,
            b'j' => self.get(|b| Ok(u32::from_le_bytes(b.array()?)))?,
            b'q' => self.put(|b| Ok(b.byte()?.into()))?,
            b'r' => self.put(|b| Ok(u32::from_le_bytes(b.array()?)))?,
            0x94 => {
                let number = self.memo.len() as u32;
                self.put(|_| Ok(number))?;
            }
            operation => {
                return Err(self.fault(format!(
                    "operation {operation:#04x} is none of those that torch.save writes; expected a checkpoint: save the \
                     state dict again with torch.save"
                )));
            }
        }
        Ok(true)
    }

    fn int(&mut self, read: impl FnOnce(&mut Bytes<R>) -> Read<i128>) -> Read<()> {
        let number = read(self.bytes)?;
        self.push(Node::Int(number))
    }

    /// An integer of any length, which is given in `width` bytes.
    fn long(&mut self, width: usize) -> Read<()> {
        let len = self.length(width)?;
        let bytes = self.bytes.run(len)?.filter(|bytes| bytes.len() <= 16);
        let node = bytes.map_or_else(
            || Node::Opaque(format!("an integer of {len} bytes").into()),
            |bytes| Node::Int(signed(&bytes)),
        );
        self.push(node)
    }

    /// A length of `width` bytes.
    fn length(&mut self, width: usize) -> Read<u64> {
        let mut bytes = [0; 8];
        for byte in &mut bytes[..width] {
            *byte = self.bytes.byte()?;
        }
        Ok(u64::from_le_bytes(bytes))
    }

    fn text(&mut self, width: usize) -> Read<()> {
        let len = self.length(width)?;
        let node = match self.bytes.run(len)? {
            Some(bytes) => Node::Text(String::from_utf8_lossy(&bytes).into()),
            None => Node::Opaque(format!("a text of {len} bytes").into()),
        };
        self.push(node)
    }

    fn blob(&mut self, width: usize) -> Read<()> {
        let len = self.length(width)?;
        let node = match self.bytes.run(len)? {
            Some(bytes) => Node::Bytes(bytes.into()),
            None => Node::Opaque(format!("{len} bytes").into()),
        };
        self.push(node)
    }

    fn tuple_of(&mut self, len: usize) -> Read<()> {
        let mut items = [Tree::NONE; 3];
        for item in items[..len].iter_mut().rev() {
            *item = self.pop()?;
        }
        self.push(Node::Tuple(items[..len].into()))
    }
}

/// Little-endian, in two's complement.
fn signed(bytes: &[u8]) -> i128 {
    let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
    let mut whole = if negative { [0xff; 16] } else { [0; 16] };
    whole[..bytes.len()].copy_from_slice(bytes);
    i128::from_le_bytes(whole)
}
