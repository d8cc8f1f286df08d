//! Texts as open_clip cleans them: with ftfy's repairs, HTML's entities resolved twice, white space made single, and in lower
//! case. Of ftfy's repairs one is not made: text that was decoded as the wrong encoding stays as it is, because what it was
//! is a guess.

use tokenizers::NormalizedString;

/// A text as CLIP's tokenizer reads it.
pub(crate) fn cleaned(text: &str) -> String {
    let resolved = htmlize::unescape(repaired(text));
    let resolved = htmlize::unescape(resolved.as_ref());
    resolved.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

/// ftfy's repairs, line by line. Entities are left alone from the first line on that has a `<`, where they may be HTML's.
fn repaired(text: &str) -> String {
    let mut resolves = true;
    let line = |line: &str| {
        resolves = resolves && !line.contains('<');
        settled(line, resolves)
    };
    text.split_inclusive('\n').map(line).collect()
}

/// Repairs a line until nothing is left to repair.
fn settled(line: &str, resolves: bool) -> String {
    let mut now = line.to_owned();
    loop {
        let resolved = if resolves { with_whole_entities_resolved(&now) } else { now.clone() };
        let plain: String = resolved.chars().fold(String::with_capacity(resolved.len()), |mut out, c| {
            push_plain(&mut out, c);
            out
        });
        let mut composed = NormalizedString::from(without_controls(&plain));
        composed.nfc();
        if composed.get() == now {
            return now;
        }
        composed.get().clone_into(&mut now);
    }
}

/// With those entities resolved that end in a semicolon, also where a name of small letters is in capitals.
fn with_whole_entities_resolved(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let entity = rest.find(';').map(|end| &rest[..=end]).filter(|entity| is_entity(entity));
        let (taken, means) = match entity.and_then(|entity| Some((entity.len(), meaning(entity)?))) {
            Some(found) => found,
            None => (1, "&".to_owned()),
        };
        out.push_str(&means);
        rest = &rest[taken..];
    }
    out + rest
}

/// `&name;`, `&#digits;` or `&#xdigits;`, of 24 letters and digits at most.
fn is_entity(text: &str) -> bool {
    let name = &text[1..text.len() - 1];
    let name = name.strip_prefix('#').unwrap_or(name);
    (1..=24).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// What an entity as a whole stands for.
fn meaning(entity: &str) -> Option<String> {
    let whole = |entity: &str| {
        let means = htmlize::unescape(entity);
        (means != entity && !means.ends_with(';')).then(|| means.into_owned())
    };
    let name_in_capitals = !entity.contains('#') && !entity.bytes().any(|b| b.is_ascii_lowercase());
    let capitals = || name_in_capitals.then(|| whole(&entity.to_ascii_lowercase()).map(|c| c.to_uppercase())).flatten();
    whole(entity).or_else(capitals)
}

/// Adds what a character looks like, without what it says of encodings, typesetting and grids.
fn push_plain(out: &mut String, c: char) {
    match c {
        '\u{80}'..='\u{9f}' => out.push(windows_1252(c)),
        'Ǳ'..='ǳ' | 'Ǆ'..='ǌ' | 'Ĳ' | 'ĳ' | 'ﬀ'..='ﬄ' | 'ﬆ' | '\u{ff01}'..='\u{ffef}' | '\u{3000}' => {
            let mut wide = NormalizedString::from(c.to_string());
            wide.nfkc();
            out.push_str(wide.get());
        }
        'ﬅ' => out.push_str("ſt"),
        // The letter that stands before this n is taken for a quote, too.
        'ŉ' => out.push_str("'n"),
        '\u{2bc}' | '\u{2018}'..='\u{201b}' => out.push('\''),
        '\u{201c}'..='\u{201f}' => out.push('"'),
        '\r' | '\u{2028}' | '\u{2029}' => out.push('\n'),
        c => out.push(c),
    }
}

/// What a control character of Unicode is in Windows's encoding, where it is something.
fn windows_1252(c: char) -> char {
    const MEANS: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', '\u{90}', '‘',
        '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
    ];
    MEANS.get((c as usize).wrapping_sub(0x80)).copied().unwrap_or(c)
}

/// Without sequences that colour a terminal, and without characters that control rather than say something.
fn without_controls(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let taken = colour(rest).unwrap_or(c.len_utf8());
        if taken == c.len_utf8() && !controls(c) {
            out.push(c);
        }
        rest = &rest[taken..];
    }
    out
}

/// The length of the terminal's sequence that the text begins with: `ESC [`, digits and semicolons, a letter.
fn colour(text: &str) -> Option<usize> {
    let rest = text.strip_prefix("\u{1b}[")?;
    let behind = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
    behind.starts_with(|c: char| c.is_ascii_alphabetic()).then(|| text.len() - behind.len() + 1)
}

fn controls(c: char) -> bool {
    let ascii = c.is_ascii_control() && !matches!(c, '\t' | '\n' | '\u{c}' | '\r');
    ascii || matches!(c, '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each of what open_clip 3.3.0 with ftfy 6.3.1 makes of the text before it.
    #[test]
    fn texts_are_cleaned_as_open_clip_cleans_them() {
        for (text, clean) in [
            ("A  Photo\tof &amp;lt;b&gt; \u{2018}x\u{201d} & co", "a photo of <b> 'x\" & co"),
            ("e\u{301}te\u{301} &eacute; &EACUTE; &#233; &copy2 R&D", "été é é é ©2 r&d"),
            ("ﬁne oﬃce ＦＵＬＬ\u{3000}ｗｉｄｔｈ ｶﾅ ǅ ŉ", "fine office full width カナ dž 'n"),
            ("\u{1b}[31mred\u{1b}[0m bell\u{7} \u{feff}bom x\u{85}y", "red bell bom x…y"),
            ("BUNDESSTRA&SZLIG;E", "bundesstrasse"),
            ("<b> BUNDESSTRA&SZLIG;E", "<b> bundesstra&szlig;e"),
        ] {
            assert_eq!(cleaned(text), clean, "{text:?}");
        }
    }

    #[test]
    fn an_entity_that_is_cut_is_text() {
        assert_eq!(cleaned("& &; &#; &x &#xZZ; AT&T"), "& &; &#; &x &#xzz; at&t");
    }
}
