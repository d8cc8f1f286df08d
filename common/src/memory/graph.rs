//! The graph of a forward, and backward through it in libtorch's order.
//!
//! Of the nodes whose gradients are complete the one that was recorded last runs first. A node's saved tensors and its
//! incoming gradients are alive while its outgoing ones are made, and gone afterwards. Gradients that meet are added up in
//! memory of their own: libtorch's engine adds in place only under conditions that no place of these models meets.

use std::cell::RefCell;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::fmt;
use std::rc::Rc;

use super::tape::{Saved, Tensor};

/// The gradients of a node's inputs, given those of its outputs, and which are wanted.
type Backward = Box<dyn FnOnce(Vec<Option<Tensor>>, &[bool]) -> Vec<Option<Tensor>>>;

/// Where a tensor's gradient goes.
#[derive(Clone)]
pub(super) enum Edge {
    /// To a leaf of this number.
    Leaf(u64),
    /// To the operation that made it, of which it is this output.
    Node(Rc<Node>, usize),
}

impl fmt::Debug for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leaf(number) => write!(f, "leaf {number}"),
            Self::Node(node, output) => write!(f, "output {output} of node {}", node.number),
        }
    }
}

/// A recorded operation.
pub(super) struct Node {
    number: u64,
    inputs: Vec<Option<Edge>>,
    outputs: usize,
    backward: RefCell<Option<Backward>>,
}

/// Makes `outputs` the results of an operation on `inputs`, where that is recorded and some input wants a gradient.
pub(super) fn record(
    mut outputs: Vec<Tensor>,
    inputs: &[&Tensor],
    backward: impl FnOnce(Vec<Option<Tensor>>, &[bool]) -> Vec<Option<Tensor>> + 'static,
) -> Vec<Tensor> {
    let Some(tape) = outputs.first().map(|y| y.tape().clone()) else { return outputs };
    if tape.records() && inputs.iter().any(|x| x.requires_grad()) {
        let node = Rc::new(Node {
            number: tape.number(),
            inputs: inputs.iter().map(|x| x.edge.clone()).collect(),
            outputs: outputs.len(),
            backward: RefCell::new(Some(Box::new(backward))),
        });
        for (i, y) in outputs.iter_mut().enumerate() {
            y.edge = Some(Edge::Node(node.clone(), i));
        }
    }
    outputs
}

/// The same for an operation with one output, whose gradient `backward` gets, and that keeps `saved`.
pub(super) fn record_one(
    output: Tensor,
    inputs: &[&Tensor],
    saved: Vec<Option<Saved>>,
    backward: impl FnOnce(Tensor, &[bool]) -> Vec<Option<Tensor>> + 'static,
) -> Tensor {
    let many = inputs.len();
    let backward = move |mut grads: Vec<Option<Tensor>>, needed: &[bool]| {
        let _saved = saved;
        match grads.pop().flatten() {
            Some(grad) => backward(grad, needed),
            None => vec![None; many],
        }
    };
    record(vec![output], inputs, backward).swap_remove(0)
}

/// The gradients of `outputs`, each with what comes in for it, by the numbers of the leaves.
pub(super) fn grad(outputs: Vec<(Tensor, Tensor)>) -> HashMap<u64, Tensor> {
    let mut open = count_edges(&outputs);
    let mut state = State::default();
    for (output, gradient) in outputs {
        state.arrive(output.edge.as_ref(), Some(gradient), None);
    }
    state.ready.retain(|Ready(node)| open.get(&node.number).is_none_or(|n| *n == 0));
    while let Some(Ready(node)) = state.ready.pop() {
        let grads = state.buffers.remove(&node.number).unwrap_or_else(|| vec![None; node.outputs]);
        let needed: Vec<bool> = node.inputs.iter().map(Option::is_some).collect();
        let backward = node.backward.borrow_mut().take();
        let answers = backward.map_or_else(Vec::new, |backward| backward(grads, &needed));
        for (edge, answer) in node.inputs.iter().zip(answers) {
            state.arrive(edge.as_ref(), answer, Some(&mut open));
        }
    }
    state.leaves
}

/// How many gradients each node waits for.
fn count_edges(outputs: &[(Tensor, Tensor)]) -> HashMap<u64, usize> {
    let mut open = HashMap::new();
    let mut seen = HashSet::new();
    let mut stack: Vec<Rc<Node>> = outputs.iter().filter_map(|(y, _)| node_of(y.edge.as_ref())).collect();
    while let Some(node) = stack.pop() {
        if !seen.insert(node.number) {
            continue;
        }
        for next in node.inputs.iter().filter_map(|edge| node_of(edge.as_ref())) {
            *open.entry(next.number).or_insert(0) += 1;
            stack.push(next);
        }
    }
    open
}

fn node_of(edge: Option<&Edge>) -> Option<Rc<Node>> {
    match edge {
        Some(Edge::Node(node, _)) => Some(node.clone()),
        _ => None,
    }
}

#[derive(Default)]
struct State {
    ready: BinaryHeap<Ready>,
    buffers: HashMap<u64, Vec<Option<Tensor>>>,
    leaves: HashMap<u64, Tensor>,
}

impl State {
    /// A gradient arrives at `edge`; its node may be ready with that.
    fn arrive(&mut self, edge: Option<&Edge>, gradient: Option<Tensor>, open: Option<&mut HashMap<u64, usize>>) {
        match edge {
            None => {}
            Some(Edge::Leaf(number)) => {
                if let Some(gradient) = gradient {
                    let sum = add(self.leaves.remove(number), gradient);
                    self.leaves.insert(*number, sum);
                }
            }
            Some(Edge::Node(node, output)) => {
                let buffer = self.buffers.entry(node.number).or_insert_with(|| vec![None; node.outputs]);
                if let Some(gradient) = gradient {
                    let before = buffer[*output].take();
                    buffer[*output] = Some(add(before, gradient));
                }
                let left = open.and_then(|open| open.get_mut(&node.number));
                let complete = left.is_none_or(|left| {
                    *left -= 1;
                    *left == 0
                });
                if complete && !self.ready.iter().any(|Ready(other)| other.number == node.number) {
                    self.ready.push(Ready(node.clone()));
                }
            }
        }
    }
}

/// The sum of two gradients.
fn add(before: Option<Tensor>, gradient: Tensor) -> Tensor {
    match before {
        None => gradient,
        Some(before) => before.alike(),
    }
}

/// A node that can run; the one recorded last first.
struct Ready(Rc<Node>);

impl PartialEq for Ready {
    fn eq(&self, other: &Self) -> bool {
        self.0.number == other.0.number
    }
}

impl Eq for Ready {}

impl PartialOrd for Ready {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ready {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.number.cmp(&other.0.number)
    }
}
