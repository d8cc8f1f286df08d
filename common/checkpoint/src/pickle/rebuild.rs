//! The few calls that mean data. A name is only ever compared with a text: nothing is looked up, and nothing is run.

use super::tree::{Id, Node, Tree};
use crate::dtype::Dtype;
use crate::limits;
use crate::tensor::Tensor;

/// What a call comes to.
pub(crate) enum Meaning {
    /// A value of its own.
    New(Node),
    /// One of its arguments.
    Same(Id),
}

/// What calling `callee` with a tuple of `arguments` means.
///
/// # Errors
/// It makes a tensor, and the tensor cannot be; in words.
pub(crate) fn call(tree: &Tree, callee: Id, arguments: Id) -> Result<Meaning, String> {
    let name = match tree.node(callee) {
        Node::Global(name) => name,
        // What an unknown call gave, called again.
        Node::Opaque(what) => return Ok(Meaning::New(Node::Opaque(what.clone()))),
        _ => return Err(format!("expected the name of a class or function, found {}", tree.describe(callee))),
    };
    let arguments = match tree.node(arguments) {
        Node::Tuple(items) => items,
        _ => return Err(format!("expected a tuple of arguments for {name}, found {}", tree.describe(arguments))),
    };
    let opaque = || Ok(Meaning::New(Node::Opaque(name.clone())));
    match (&**name, &**arguments) {
        ("collections.OrderedDict", []) | ("collections.defaultdict", [_] | []) => {
            Ok(Meaning::New(Node::Dict(Vec::new())))
        }
        ("collections.OrderedDict", [pairs]) => Ok(Meaning::New(pairs_of(tree, *pairs)?)),
        // A set before protocol 4, which is as good as the list that it is made of.
        ("builtins.set" | "builtins.frozenset" | "__builtin__.set" | "__builtin__.frozenset", [items]) => {
            Ok(Meaning::Same(*items))
        }
        // Bytes before protocol 3: a text of their values.
        ("_codecs.encode", [text, ..]) => match tree.node(*text) {
            Node::Text(text) => {
                let bytes = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect::<Option<Box<[u8]>>>();
                bytes.map_or_else(opaque, |bytes| Ok(Meaning::New(Node::Bytes(bytes))))
            }
            _ => opaque(),
        },
        ("builtins.bytes" | "__builtin__.bytes", []) => Ok(Meaning::New(Node::Bytes([].into()))),
        ("torch.Size", [size]) => Ok(Meaning::Same(*size)),
        ("torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2", _) => {
            tensor(tree, name, arguments).map(Meaning::New)
        }
        ("torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state", [data, ..]) => {
            Ok(Meaning::Same(*data))
        }
        // A tensor with attributes of its own: how it is made, its class, the arguments, the attributes.
        ("torch._tensor._rebuild_from_type_v2", [maker, _, inner, ..]) => match tree.node(*maker) {
            Node::Global(inside) if **inside != **name => call(tree, *maker, *inner),
            _ => opaque(),
        },
        _ => opaque(),
    }
}

/// A dict from a list of keys and values, as Python 2 wrote it.
fn pairs_of(tree: &Tree, pairs: Id) -> Result<Node, String> {
    let (Node::List(pairs), what) = (tree.node(pairs), tree.describe(pairs)) else {
        return Ok(Node::Opaque("collections.OrderedDict".into()));
    };
    let pair = |id: &Id| match tree.node(*id) {
        Node::List(pair) if pair.len() == 2 => Ok((pair[0], pair[1])),
        Node::Tuple(pair) if pair.len() == 2 => Ok((pair[0], pair[1])),
        _ => Err(format!("expected pairs in {what}, found {}", tree.describe(*id))),
    };
    pairs.iter().map(pair).collect::<Result<_, _>>().map(Node::Dict)
}

/// Storage, offset, shape, strides, and what only matters to gradients; then perhaps flags.
fn tensor(tree: &Tree, name: &str, arguments: &[Id]) -> Result<Node, String> {
    let [storage, offset, shape, strides, rest @ ..] = arguments else {
        return Err(format!("{name} has {} arguments; expected 4 or more", arguments.len()));
    };
    let (number, base, limit) = match tree.node(*storage) {
        Node::Storage(part) => **part,
        Node::Opaque(what) => return Ok(Node::Opaque(what.clone())),
        _ => return Err(format!("expected a storage as first argument of {name}, found {}", tree.describe(*storage))),
    };
    // Conjugates and negatives are stored as what they are taken of.
    if let Some(Node::Dict(flags)) = rest.get(2).map(|id| tree.node(*id))
        && flags.iter().any(|(_, value)| *tree.node(*value) == Node::Bool(true))
    {
        return Ok(Node::Opaque("a tensor that is the negative or conjugate of what is stored".into()));
    }
    let (shape, strides) = (numbers(tree, *shape)?, numbers(tree, *strides)?);
    let offset = number_of(tree, *offset)?;
    let storage = (number, &tree.storages()[number as usize]);
    Tensor::view(storage, (base, limit), offset, &shape, &strides).map(|tensor| Node::Tensor(Box::new(tensor)))
}

/// What stands outside of the pickle: `("storage", class, key, device, numel)`, and in old files the part that is
/// meant.
///
/// # Errors
/// It is not that; in words.
pub(crate) fn storage(tree: &mut Tree, named: Id) -> Result<Node, String> {
    let fields: Vec<Id> = match tree.node(named) {
        Node::Tuple(fields) if (5..=6).contains(&fields.len()) => fields.to_vec(),
        _ => return Err(format!("expected the five fields of a storage, found {}", tree.describe(named))),
    };
    let (class, key) = match (tree.node(fields[0]), tree.node(fields[1]), tree.node(fields[2])) {
        (Node::Text(kind), Node::Global(class), Node::Text(key))
            if **kind == *"storage" && key.len() <= limits::NAME =>
        {
            (class.clone(), key.clone())
        }
        _ => {
            return Err("expected \"storage\", a class and a short key; torch.save writes nothing else here".to_owned());
        }
    };
    let numel = number_of(tree, fields[4])?;
    let Some(dtype) = Dtype::of_storage(&class) else { return Ok(Node::Opaque(class)) };
    let numel = u64::try_from(numel).ok().filter(|n| n.checked_mul(dtype.size()).is_some());
    let numel = numel.ok_or("a storage has less than no bytes, or more than can be counted".to_owned())?;
    let number = tree.storage(&key, dtype, numel).ok_or_else(|| {
        format!("storage {key:?} is said to be {numel} {}, and has been said to be something else", dtype.name())
    })?;
    let part = match fields.get(5).map(|id| tree.node(*id)) {
        None | Some(Node::None) => (0, numel),
        Some(Node::Tuple(view)) if view.len() == 3 => {
            let part = (u64::try_from(number_of(tree, view[1])?), u64::try_from(number_of(tree, view[2])?));
            match part {
                (Ok(first), Ok(len)) if first.checked_add(len).is_some_and(|end| end <= numel) => (first, len),
                _ => return Err(format!("a part of storage {key:?} is not within its {numel} numbers")),
            }
        }
        Some(_) => return Err("expected a part of a storage: a key, an offset and a size".to_owned()),
    };
    Ok(Node::Storage(Box::new((number, part.0, part.1))))
}

fn numbers(tree: &Tree, id: Id) -> Result<Vec<i128>, String> {
    match tree.node(id) {
        Node::Tuple(items) if items.len() <= limits::DIMENSIONS => {
            items.iter().map(|id| number_of(tree, *id)).collect()
        }
        _ => Err(format!("expected the sizes of a tensor, found {}", tree.describe(id))),
    }
}

fn number_of(tree: &Tree, id: Id) -> Result<i128, String> {
    match tree.node(id) {
        Node::Int(number) => Ok(*number),
        _ => Err(format!("expected an integer, found {}", tree.describe(id))),
    }
}
