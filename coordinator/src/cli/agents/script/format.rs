//! How each format writes a value, so that any text arrives as it was meant.

use super::template::Value;

/// What a template is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// systemd's unit files.
    Systemd,
    /// Objects of Kubernetes.
    Kubernetes,
    /// A compose file.
    Compose,
    /// A shell script with Slurm's options in its head.
    Shell,
}

impl Format {
    /// The line with another value; its name and its place stay.
    pub(super) fn set(self, line: &str, value: &Value) -> String {
        match (self, value) {
            (Self::Kubernetes | Self::Compose, Value::Number(n)) => format!("{}: {n}", before(line, ": ")),
            // Both know variables, Kubernetes in the values of an environment only; two dollar signs are one.
            (Self::Compose, Value::Text(text)) => format!("{}: {}", before(line, ": "), yaml(&text.replace('$', "$$"))),
            (Self::Kubernetes, Value::Text(text)) => {
                let name = before(line, ": ");
                let is_variable = name.trim() == "value";
                format!("{name}: {}", yaml(&if is_variable { text.replace('$', "$$") } else { text.clone() }))
            }
            (_, Value::Number(n)) => format!("{}={n}", before(line, "=")),
            // Options of Slurm have types that need no quotes.
            (Self::Shell, Value::Text(text)) if line.starts_with("#SBATCH") => format!("{}={text}", before(line, "=")),
            (Self::Shell, Value::Text(text)) => format!("{}={}", before(line, "="), shell(text)),
            (Self::Systemd, Value::Text(text)) => unit(line, text),
        }
    }
}

fn before<'a>(line: &'a str, separator: &str) -> &'a str {
    line.split_once(separator).map_or(line, |(name, _)| name)
}

/// A double-quoted scalar; what is JSON is YAML.
fn yaml(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Within single quotes nothing is special but their end.
fn shell(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A line of a unit file, each directive by its own rules.
fn unit(line: &str, text: &str) -> String {
    // A percent sign begins a specifier everywhere.
    let plain = text.replace('%', "%%");
    let quoted = plain.replace('\\', r"\\").replace('"', r#"\""#);
    let (directive, rest) = line.split_once('=').unwrap_or((line, ""));
    match directive {
        "Environment" => {
            let name = before(rest.trim_start_matches('"'), "=");
            format!("{directive}=\"{name}={quoted}\"")
        }
        // The program only, in which a dollar sign begins no variable; its arguments stay.
        "ExecStart" => {
            let arguments = rest.rsplit_once('"').map_or("", |(_, arguments)| arguments);
            format!("{directive}=\"{quoted}\"{arguments}")
        }
        // KIND:PATH, where nothing is quoted.
        "StandardInput" => format!("{directive}={}:{plain}", before(rest, ":")),
        _ => format!("{directive}={plain}"),
    }
}
