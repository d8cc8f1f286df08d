//! Which class a model's answer in words means: one rule for all models, so that none is helped.
//!
//! Answer and class names are lower-cased, what is neither letter nor digit becomes a space, and spaces collapse. Then an
//! answer means the class that it is; else, of the classes whose names it contains as whole words, the one with the
//! longest name, and of equally long ones the first that is said; else none, which is counted as wrong.

/// The classes of a data set, as answers may name them.
#[derive(Debug, Clone)]
pub struct Answers {
    /// In words, by the class's number.
    names: Vec<String>,
}

/// What an answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// It is the name of this class.
    Exact(usize),
    /// It contains the name of this class.
    Contained(usize),
    /// It names none.
    Nothing,
}

impl Meaning {
    /// The class, if it means one.
    pub const fn class(self) -> Option<usize> {
        match self {
            Self::Exact(class) | Self::Contained(class) => Some(class),
            Self::Nothing => None,
        }
    }
}

impl Answers {
    /// Of classes with these names.
    ///
    /// # Errors
    /// There is none, one has no letter or digit, or two are the same in words.
    pub fn new<S: AsRef<str>>(classes: &[S]) -> Result<Self, String> {
        let names: Vec<String> = classes.iter().map(|name| words(name.as_ref())).collect();
        if names.is_empty() {
            return Err("expected the names of classes to answer with, found none".to_owned());
        }
        for (i, name) in names.iter().enumerate() {
            if name.is_empty() {
                return Err(format!("the class name \"{}\" has no letter or digit", classes[i].as_ref()));
            }
            if let Some(before) = names[..i].iter().position(|other| other == name) {
                let (one, two) = (classes[before].as_ref(), classes[i].as_ref());
                return Err(format!(
                    "the class names \"{one}\" and \"{two}\" are the same in words: no answer tells them apart"
                ));
            }
        }
        Ok(Self { names })
    }

    /// A class's name in words, as a prompt has it.
    pub fn name(&self, class: usize) -> &str {
        &self.names[class]
    }

    /// What `answer` means.
    pub fn meaning(&self, answer: &str) -> Meaning {
        let answer = words(answer);
        if let Some(class) = self.names.iter().position(|name| *name == answer) {
            return Meaning::Exact(class);
        }
        // Spaces around make whole words of both.
        let answer = format!(" {answer} ");
        let said = self.names.iter().enumerate().filter_map(|(class, name)| {
            let at = answer.find(&format!(" {name} "))?;
            Some((std::cmp::Reverse(name.chars().count()), at, class))
        });
        said.min().map_or(Meaning::Nothing, |(_, _, class)| Meaning::Contained(class))
    }
}

/// Lower case; letters and digits with single spaces between.
fn words(text: &str) -> String {
    let spaced: String = text.to_lowercase().chars().map(|c| if c.is_alphanumeric() { c } else { ' ' }).collect();
    spaced.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answers() -> Answers {
        Answers::new(&["apple", "maple_tree", "tree", "sweet_pepper", "pine_tree", "polka-dotted"]).expect("classes")
    }

    #[test]
    fn an_answer_is_a_class_or_contains_one() {
        let answers = answers();
        for (answer, meaning) in [
            ("apple", Meaning::Exact(0)),
            (" Apple. ", Meaning::Exact(0)),
            ("maple_tree", Meaning::Exact(1)),
            ("Maple tree", Meaning::Exact(1)),
            ("It is a maple tree!", Meaning::Contained(1)),
            ("a tree, not a maple", Meaning::Contained(2)),
            ("Polka dotted", Meaning::Exact(5)),
            // As long as each other: the first that is said.
            ("pine tree or sweet tree", Meaning::Contained(4)),
            ("pineapple", Meaning::Nothing),
            ("", Meaning::Nothing),
            ("…", Meaning::Nothing),
        ] {
            assert_eq!(answers.meaning(answer), meaning, "{answer}");
        }
        assert_eq!(answers.name(1), "maple tree");
    }

    #[test]
    fn classes_that_no_answer_tells_apart_are_refused() {
        let none: [&str; 0] = [];
        assert!(Answers::new(&none).expect_err("none").contains("found none"));
        assert!(Answers::new(&["a_b", "A b"]).expect_err("the same").contains("\"a_b\" and \"A b\""));
        assert!(Answers::new(&["a", "--"]).expect_err("empty").contains("\"--\""));
    }

    proptest! {
        /// Against the definition: every name that stands in the answer as whole words, the longest first.
        #[test]
        fn the_longest_name_counts(said in prop::collection::vec(0usize..6, 0..5), noise in "[a-z ]{0,12}") {
            let answers = answers();
            let text = said.iter().map(|class| answers.name(*class)).collect::<Vec<_>>().join(" zzz ") + " zzz " + &noise;
            let list: Vec<&str> = text.split_whitespace().collect();
            let contains = |name: &str| {
                let name: Vec<&str> = name.split(' ').collect();
                list.windows(name.len()).any(|w| w == name)
            };
            let longest = (0..6).filter(|c| contains(answers.name(*c))).map(|c| answers.name(c).len()).max();
            let found = answers.meaning(&text).class().map(|class| answers.name(class).len());
            prop_assert_eq!(found, longest);
        }
    }
}
