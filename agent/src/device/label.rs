//! A label that the operator gives a machine, for what its devices' names do not tell apart.

use fleet_common::id::HardwareClass;

/// Most characters of a label.
const MOST: usize = 40;
/// Most characters of a class.
const CLASS: usize = 120;

/// A short text that sets this machine's slots apart from others of the same device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label(String);

/// Why a text is no label.
#[derive(Debug, thiserror::Error)]
#[error("expected a label of 1 to 40 printable characters without '/', '[' and ']', such as \"250 W\"; found {0:?}")]
pub struct BadLabel(String);

impl std::str::FromStr for Label {
    type Err = BadLabel;

    fn from_str(text: &str) -> Result<Self, BadLabel> {
        let plain = |c: char| !c.is_control() && !matches!(c, '/' | '[' | ']');
        let good = (1..=MOST).contains(&text.chars().count()) && text.trim() == text && text.chars().all(plain);
        if good { Ok(Self(text.to_owned())) } else { Err(BadLabel(text.to_owned())) }
    }
}

impl Label {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The class of a device with this label: "NVIDIA L4 [50 W]". Of a long name the end goes, never the label.
    pub fn append(&self, class: &HardwareClass) -> HardwareClass {
        let room = CLASS - self.0.chars().count() - " []".len();
        let name: String = class.as_str().chars().take(room).collect();
        format!("{} [{}]", name.trim_end(), self.0).parse().unwrap_or_else(|_| class.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(text: &str) -> HardwareClass {
        text.parse().expect("a class")
    }

    #[test]
    fn a_label_stands_behind_the_device_and_survives_a_long_name() {
        let label: Label = "250 W".parse().expect("a label");
        assert_eq!(label.append(&class("AMD EPYC, 2 CPUs")).as_str(), "AMD EPYC, 2 CPUs [250 W]");
        let long = label.append(&class(&"x".repeat(120)));
        assert!(long.as_str().ends_with("x [250 W]") && long.as_str().chars().count() == 120, "{long}");
        let longest: Label = "ü".repeat(40).parse().expect("a label");
        assert!(longest.append(&class(&"x".repeat(120))).as_str().ends_with("ü]"));
    }

    #[test]
    fn what_would_break_a_class_or_a_trials_name_is_refused_with_what_is_expected() {
        for text in ["", " x", "x ", "a/b", "a]", "[b", "a\nb", "\u{1b}[2J", &"x".repeat(41)] {
            let error = text.parse::<Label>().expect_err("refused").to_string();
            assert!(error.contains("1 to 40 printable characters") && error.contains("250 W"), "{error}");
        }
    }
}
