//! A page read back as a scraper does, but strictly: whatever Prometheus could misread or drop is an error. For tests.

use std::collections::{BTreeMap, BTreeSet};

/// The values of a page.
#[derive(Debug, Default)]
pub struct Exposition {
    /// Types of metrics by name.
    pub types: BTreeMap<String, String>,
    /// Names, labels and values, in order.
    pub rows: Vec<(String, BTreeMap<String, String>, f64)>,
}

impl Exposition {
    /// The value of the only row with this name and, among others, these labels.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut found = self.with(name, labels);
        let value = found.next()?.2;
        assert!(found.next().is_none(), "several rows of {name} have the labels {labels:?}");
        Some(value)
    }

    /// The rows with this name and, among others, these labels.
    pub fn with<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a (String, BTreeMap<String, String>, f64)> {
        let has = |of: &BTreeMap<String, String>| labels.iter().all(|(n, v)| of.get(*n).is_some_and(|have| have == v));
        self.rows.iter().filter(move |(n, of, _)| n == name && has(of))
    }
}

/// Reads a page.
///
/// # Errors
/// It is not what the text format 0.0.4 allows, or lacks HELP or TYPE.
pub fn read(text: &str) -> Result<Exposition, String> {
    if !text.is_empty() && !text.ends_with('\n') {
        return Err("the last line has no end".to_owned());
    }
    let mut page = Exposition::default();
    let mut helped = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut current = String::new();
    for line in text.lines() {
        let wrong = |why: &str| format!("{why}: {line}");
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').ok_or_else(|| wrong("no help"))?;
            if words.is_empty() || !helped.insert(name.to_owned()) {
                return Err(wrong("help that is empty or there already"));
            }
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').ok_or_else(|| wrong("no type"))?;
            let known = ["counter", "gauge", "histogram", "untyped"].contains(&kind);
            if !known || !is_name(name, true) || !helped.contains(name) {
                return Err(wrong("a type without help, or not known, or a bad name"));
            }
            if (kind == "counter") != name.ends_with("_total") {
                return Err(wrong("counters, and nothing else, end in _total"));
            }
            if page.types.insert(name.to_owned(), kind.to_owned()).is_some() {
                return Err(wrong("declared twice"));
            }
            name.clone_into(&mut current);
        } else if line.starts_with('#') {
            return Err(wrong("neither help nor type"));
        } else {
            let (name, labels, value) = row(line).ok_or_else(|| wrong("not a row"))?;
            let of_current = match page.types.get(&current).map(String::as_str) {
                Some("histogram") => ["_bucket", "_sum", "_count"].iter().any(|end| name == format!("{current}{end}")),
                _ => name == current,
            };
            if !of_current {
                return Err(wrong("not behind its type"));
            }
            if !seen.insert((name.clone(), labels.clone())) {
                return Err(wrong("the same row twice"));
            }
            page.rows.push((name, labels, value));
        }
    }
    Ok(page)
}

fn is_name(text: &str, colons: bool) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colons && c == ':');
    !text.is_empty() && !text.starts_with(|c: char| c.is_ascii_digit()) && text.chars().all(good)
}

fn row(line: &str) -> Option<(String, BTreeMap<String, String>, f64)> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, behind) = rest.split_once("=\"")?;
            let (value, behind) = quoted(behind)?;
            if !is_name(label, false) || labels.insert(label.to_owned(), value).is_some() {
                return None;
            }
            rest = behind.strip_prefix(',').unwrap_or(behind);
        }
        rest = &rest[1..];
    }
    let value = rest.strip_prefix(' ')?;
    // Rust reads "inf" and "NaN" too, as Prometheus does, and no time stamp may follow.
    Some((name.to_owned(), labels, value.parse().ok()?)).filter(|_| is_name(name, true))
}

/// A text up to its closing quotation mark, and what is behind that.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                c @ ('\\' | '"') => c,
                _ => return None,
            }),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_page_is_read_and_wrong_ones_are_not() {
        let head = "# HELP a_total What.\n# TYPE a_total counter\n";
        let page = read(&format!("{head}a_total{{x=\"1,}} \\\"\\n\",y=\"\"}} 2.5\na_total 1e3\n")).expect("right");
        assert_eq!(page.value("a_total", &[("x", "1,} \"\n")]), Some(2.5));
        assert_eq!((page.rows.len(), page.types.len()), (2, 1));
        let histogram = "# HELP h H.\n# TYPE h histogram\nh_sum 1\nh_count 1\nh_bucket{le=\"+Inf\"} 1\n";
        assert_eq!(read(histogram).expect("right").rows.len(), 3);
        for wrong in [
            "a_total 1\n",
            "# TYPE a_total counter\n",
            "# HELP a_total What.\n# TYPE a_total gauge\n",
            "# HELP a What.\n# TYPE a counter\n",
            &format!("{head}b_total 1\n"),
            &format!("{head}a_total 1\na_total 2\n"),
            &format!("{head}a_total{{x=\"1}} 1\n"),
            &format!("{head}a_total{{x=\"1\",x=\"2\"}} 1\n"),
            &format!("{head}a_total one\n"),
            &format!("{head}a_total 1"),
            &format!("{head}{head}"),
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
