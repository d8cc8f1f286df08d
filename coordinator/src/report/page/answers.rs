//! What models that answer in words have said, collapsed: one list per trial, the most frequent answer first.

use fleet_common::record::{Answer, Record};
use maud::{Markup, html};

use super::Page;
use super::shell::Section;
use super::trials::in_order;
use crate::report::answers::{answers, not_kept};
use crate::report::blocks::brief;
use crate::report::numbers::{plural, whole};

/// Different answers shown of a trial; a page must stay one that can be opened.
const SHOWN: usize = 100;

pub(super) fn section(page: &Page<'_>) -> Option<Section> {
    let said: Vec<&Record> =
        in_order(page.input.records).into_iter().filter(|r| !answers(r).is_empty() || not_kept(r) > 0).collect();
    if said.is_empty() {
        return None;
    }
    let body = html! {
        p.howto {
            "What models that answer in words said about the evaluated images, word for word up to 200 characters. One rule holds for "
            "all models: case and punctuation aside, an answer is taken for the class that it names, else for the longest class name in it, "
            "else for none, and is wrong."
        }
        @for record in said { (list(page, record)) }
    };
    Some(Section { id: "answers", heading: "Answers", body })
}

fn list(page: &Page<'_>, record: &Record) -> Markup {
    let answers = answers(record);
    html! {
        details {
            summary { (title(record)) ": " (plural(answers.len() as u64, "different answer")) @if not_kept(record) > 0 { " and more" } }
            div.scroll { table.answers {
                thead { tr { th.num { "times" } th.num { "right" } th { "taken for" } th { "answer" } } }
                tbody { @for answer in answers.iter().take(SHOWN) { (line(answer)) } }
            } }
            p.muted { (in_all(&answers, record)) (left_off(page, &answers, record)) }
        }
    }
}

fn title(record: &Record) -> String {
    let (name, s) = (brief(&record.settings, true), &record.settings);
    let repeat = if record.trial.repeat > 0 { format!(", repeat {}", record.trial.repeat) } else { String::new() };
    format!("{name}, {} on {}, seed {}{repeat}", s.dataset.name, record.machine.hardware, s.seed)
}

fn line(answer: &Answer) -> Markup {
    html! {
        tr {
            td.num { (whole(answer.times)) }
            td.num { (whole(answer.right)) }
            td { @match (&answer.class_name, answer.class) {
                (Some(name), _) => (name),
                (None, Some(class)) => { "class " (class) }
                (None, None) => span.na { "none" },
            } }
            td.answer { @match visible(&answer.text) {
                text if text.is_empty() => span.na { "nothing" },
                text => bdi { (text) },
            } }
        }
    }
}

/// The text with signs in place of what would not show: it comes from another machine.
fn visible(text: &str) -> String {
    let sign = |c: char| match c {
        '\n' => '⏎',
        c if c.is_control() => '\u{FFFD}',
        c => c,
    };
    text.chars().map(sign).collect()
}

fn in_all(answers: &[&Answer], record: &Record) -> String {
    let none: u64 = answers.iter().filter(|a| a.class.is_none()).map(|a| a.times).sum();
    let (evaluated, right) = (record.training.evaluated, answers.iter().map(|a| a.right).sum::<u64>());
    format!(
        "Of {} these answers were right about {}; about {} they named no class.",
        plural(evaluated, "evaluated image"),
        whole(right),
        whole(none)
    )
}

/// What is not in the list, and where it is.
fn left_off(page: &Page<'_>, answers: &[&Answer], record: &Record) -> String {
    let mut text = String::new();
    if let Some(rest @ [_, ..]) = answers.get(SHOWN..) {
        let times = rest.iter().map(|a| a.times).sum();
        text.push_str(&format!(
            " The {SHOWN} most frequent are shown; {} more, given {}, are in the record: `fleet export {} --answers \
             OUT.csv` lists all.",
            whole(rest.len() as u64),
            plural(times, "time"),
            page.input.campaign
        ));
    }
    if not_kept(record) > 0 {
        text.push_str(&format!(
            " What was said about {} is not kept: the answers were too many different ones.",
            plural(not_kept(record), "other image")
        ));
    }
    text
}
