//! Templates: files that are right as they are, with marks at what can be replaced.
//!
//! | a comment of its own line | |
//! |---|---|
//! | `# field: NAME` | the value in the next line is replaced by that of the field |
//! | `# only with NAME` … `# end` | these lines stay if the field has a value |
//! | `# only without NAME` … `# end` | these lines stay if it has none |
//!
//! No field is called `example`: what only the example says is in a block of that name. What is not so in the example stands behind `#~ `, which is taken away from lines that stay. The marks go.

use std::collections::BTreeMap;

use super::format::Format;

/// What a field is replaced by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// Text, to be quoted as the format needs it.
    Text(String),
    /// A number, never quoted.
    Number(u64),
}

/// Values by the names of their fields.
#[derive(Debug, Default)]
pub(super) struct Fields(BTreeMap<&'static str, Value>);

impl Fields {
    pub(super) fn text(&mut self, name: &'static str, value: impl ToString) {
        self.0.insert(name, Value::Text(value.to_string()));
    }

    pub(super) fn number(&mut self, name: &'static str, value: impl Into<u64>) {
        self.0.insert(name, Value::Number(value.into()));
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Text, if there is any.
    pub(super) fn some(&mut self, name: &'static str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }
}

/// What a line is to the template.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    Field(&'a str),
    OnlyWith(&'a str),
    OnlyWithout(&'a str),
    End,
    Text,
}

impl<'a> Line<'a> {
    pub(super) fn read(line: &'a str) -> Self {
        let Some(comment) = line.trim().strip_prefix("# ") else { return Self::Text };
        let name = |prefix: &str| comment.strip_prefix(prefix).filter(|name| !name.contains(' '));
        match (name("field: "), name("only with "), name("only without ")) {
            (Some(name), _, _) => Self::Field(name),
            (_, Some(name), _) => Self::OnlyWith(name),
            (_, _, Some(name)) => Self::OnlyWithout(name),
            _ if comment == "end" => Self::End,
            _ => Self::Text,
        }
    }
}

/// The template with its fields filled in. A field without a value, outside of a block, stays as the example has it.
pub(super) fn fill(template: &str, format: Format, fields: &Fields) -> String {
    let (mut text, mut stays, mut in_block, mut next) = (String::new(), true, false, None);
    for line in template.lines() {
        match Line::read(line) {
            Line::Field(name) => next = fields.0.get(name),
            Line::OnlyWith(name) => (in_block, stays) = (true, fields.has(name)),
            Line::OnlyWithout(name) => (in_block, stays) = (true, !fields.has(name)),
            Line::End => (in_block, stays) = (false, true),
            Line::Text => {
                let value = next.take();
                if !stays {
                    continue;
                }
                let line = if in_block { line.replacen("#~ ", "", 1) } else { line.to_owned() };
                text += &value.map_or(line.clone(), |value| format.set(&line, value));
                text.push('\n');
            }
        }
    }
    text
}
