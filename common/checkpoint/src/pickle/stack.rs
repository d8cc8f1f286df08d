//! The machine's stack and what it remembers, each within a bound.

use std::collections::HashMap;
use std::io;

use super::bytes::Bytes;
use super::rebuild;
use super::tree::{Id, Node, Tree};
use crate::error::{Fault, Read};
use crate::limits;

/// The state of a pickle that is being read.
pub(super) struct Machine<'a, R> {
    pub(super) bytes: &'a mut Bytes<R>,
    pub(super) tree: &'a mut Tree,
    pub(super) stack: Vec<Id>,
    /// Where brackets were opened on the stack.
    pub(super) marks: Vec<usize>,
    /// Values that are used further on, by number.
    pub(super) memo: HashMap<u32, Id>,
    /// Bytes that calls have copied out of their arguments.
    copied: u64,
    /// Where the operation at work begins.
    pub(super) at: u64,
}

impl<'a, R: io::Read> Machine<'a, R> {
    pub(super) fn new(bytes: &'a mut Bytes<R>, tree: &'a mut Tree) -> Self {
        Self { bytes, tree, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new(), copied: 0, at: 0 }
    }

    pub(super) fn fault(&self, problem: impl Into<String>) -> Fault {
        Fault::at(self.at, problem)
    }

    pub(super) fn push(&mut self, node: Node) -> Read<()> {
        if self.tree.len() == limits::VALUES {
            return Err(self.fault(format!("more than {} values; no checkpoint needs that", limits::VALUES)));
        }
        let id = self.tree.push(node);
        self.push_id(id)
    }

    pub(super) fn push_id(&mut self, id: Id) -> Read<()> {
        if self.stack.len() == limits::STACK {
            return Err(
                self.fault(format!("more than {} values on the stack; no checkpoint needs that", limits::STACK))
            );
        }
        self.stack.push(id);
        Ok(())
    }

    /// The top of the stack, which an open bracket hides.
    pub(super) fn top(&self) -> Read<Id> {
        let bottom = self.marks.last().copied().unwrap_or(0);
        match self.stack.last() {
            Some(&id) if self.stack.len() > bottom => Ok(id),
            _ => Err(self.fault("expected a value on the stack, found none; the pickle is damaged: fetch it again")),
        }
    }

    pub(super) fn pop(&mut self) -> Read<Id> {
        let id = self.top()?;
        self.stack.pop();
        Ok(id)
    }

    /// What was pushed since the last bracket was opened.
    pub(super) fn bracket(&mut self) -> Read<Vec<Id>> {
        let Some(mark) = self.marks.pop() else {
            return Err(self.fault("expected an open bracket, found none; the pickle is damaged: fetch it again"));
        };
        Ok(self.stack.split_off(mark))
    }

    /// Adds to the list or set on top.
    pub(super) fn extend(&mut self, items: &[Id]) -> Read<()> {
        let top = self.top()?;
        match self.tree.node_mut(top) {
            Node::List(list) | Node::Set(list) => list.extend_from_slice(items),
            Node::Opaque(_) => {}
            _ => return Err(self.fault(format!("expected a list to add to, found {}", self.tree.describe(top)))),
        }
        Ok(())
    }

    /// Sets keys and values, which alternate, of the dict on top.
    pub(super) fn put_pairs(&mut self, items: &[Id]) -> Read<()> {
        let top = self.top()?;
        if !items.len().is_multiple_of(2) {
            return Err(self.fault("expected a value for each key of a dict; the pickle is damaged: fetch it again"));
        }
        match self.tree.node_mut(top) {
            Node::Dict(entries) => entries.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1]))),
            Node::Opaque(_) => {}
            _ => return Err(self.fault(format!("expected a dict to add to, found {}", self.tree.describe(top)))),
        }
        Ok(())
    }

    pub(super) fn call(&mut self, callee: Id, arguments: Id) -> Read<()> {
        let meaning = rebuild::call(self.tree, callee, arguments).map_err(|problem| self.fault(problem))?;
        match meaning {
            rebuild::Meaning::New(node) => {
                // Honest pickles copy each argument once; one that is named again and again would be copied as often.
                self.copied += match &node {
                    Node::Bytes(bytes) => bytes.len() as u64,
                    Node::Dict(entries) => entries.len() as u64,
                    _ => 0,
                };
                if self.copied > self.at {
                    return Err(self.fault("a pickle that multiplies its own content; no checkpoint needs that"));
                }
                self.push(node)
            }
            rebuild::Meaning::Same(id) => self.push_id(id),
        }
    }

    pub(super) fn get(&mut self, read: impl FnOnce(&mut Bytes<R>) -> Read<u32>) -> Read<()> {
        let number = read(self.bytes)?;
        match self.memo.get(&number) {
            Some(&id) => self.push_id(id),
            None => {
                Err(self
                    .fault(format!("value {number} is used before it is given; the pickle is damaged: fetch it again")))
            }
        }
    }

    pub(super) fn put(&mut self, read: impl FnOnce(&mut Bytes<R>) -> Read<u32>) -> Read<()> {
        let number = read(self.bytes)?;
        let top = self.top()?;
        if self.memo.len() == limits::MEMO {
            return Err(self.fault(format!("more than {} values are numbered; no checkpoint needs that", limits::MEMO)));
        }
        self.memo.insert(number, top);
        Ok(())
    }
}
