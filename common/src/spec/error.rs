//! Errors in a campaign file: where, what was found, what was expected, and the nearest thing that would be right.

use std::fmt;

/// What is wrong with a campaign file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecError {
    /// The file as the user named it.
    pub file: String,
    /// Line and column from 1, where known.
    pub position: Option<(usize, usize)>,
    /// What was expected and what was found.
    pub message: String,
    /// The line of the file that the error is in.
    pub excerpt: Option<String>,
}

impl SpecError {
    /// From the TOML reader's error on `text`.
    pub(super) fn new(file: &str, text: &str, error: &toml::de::Error) -> Self {
        let position = error.span().map(|span| {
            let before = &text[..span.start.min(text.len())];
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
            (line, column)
        });
        let excerpt = position.and_then(|(line, _)| text.lines().nth(line - 1)).map(|l| l.trim_end().to_owned());
        Self { file: file.to_owned(), position, message: improve(error.message()), excerpt }
    }
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some((line, column)) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(excerpt) = &self.excerpt {
            write!(f, "\n    {excerpt}")?;
        }
        Ok(())
    }
}

impl std::error::Error for SpecError {}

/// The nearest of `valid` to `found`, if one is near enough to be what was meant.
pub fn nearest<'a>(found: &str, valid: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    valid
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&found.to_lowercase(), &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= name.len().max(found.len()).div_ceil(3))
        .min()
        .map(|(_, name)| name)
}

/// "unknown KIND "FOUND"; did you mean "NEAREST"? Known: …", in one wording for every axis.
pub(super) fn unknown(kind: &str, found: &str, valid: &[&str]) -> String {
    let hint = nearest(found, valid.iter().copied()).map(|n| format!("; did you mean \"{n}\"?")).unwrap_or_default();
    let dot = if hint.is_empty() { "." } else { "" };
    format!("unknown {kind} \"{found}\"{hint}{dot} Known: {}", valid.join(", "))
}

/// Serde's wording for unknown keys names all valid ones but not the nearest. Its form, "unknown field `x`, expected
/// one of `a`, `b`", has been stable since serde 1.0; any other message passes through unchanged.
fn improve(message: &str) -> String {
    let Some(rest) = message.strip_prefix("unknown field `") else { return message.to_owned() };
    let Some((found, expected)) = rest.split_once('`') else { return message.to_owned() };
    let valid: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
    unknown("key", found, &valid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_and_far_ones_are_not() {
        let names = ["full", "lora", "bitfit"];
        assert_eq!(nearest("loar", names), Some("lora"));
        assert_eq!(nearest("BitFit", names), Some("bitfit"));
        assert_eq!(nearest("quantum", names), None);
    }

    #[test]
    fn serdes_wording_for_unknown_keys_is_understood() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Section {
            #[serde(rename = "steps")]
            _steps: u32,
            #[serde(rename = "batch")]
            _batch: u32,
        }
        let text = "steps = 1\nbacth = 2\n";
        let error = toml::from_str::<Section>(text).expect_err("a misspelt key");
        let error = SpecError::new("c.toml", text, &error);
        assert_eq!(
            error.to_string(),
            "c.toml:2:1: unknown key \"bacth\"; did you mean \"batch\"? Known: steps, batch\n    bacth = 2"
        );
    }
}
