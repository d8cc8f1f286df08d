//! What models that answer in words have said.

use fleet_common::record::{Answer, Frozen, MOST_ANSWERS, Record};

use super::fixture::{GPU, Trial, World, trial};
use super::{EVIL, is_self_contained, is_well_formed, visible};
use crate::report::{answers_csv, html};

fn answer(text: &str, class: Option<(u32, Option<&str>)>, times: u64, right: u64) -> Answer {
    let class_name = class.and_then(|(_, name)| name.map(str::to_owned));
    Answer { text: text.to_owned(), class: class.map(|(class, _)| class), class_name, times, right }
}

/// Answers to 390 images of 400: a name, a sentence, nothing, one of an older version, and what must not be markup.
pub(super) fn said() -> Vec<Answer> {
    vec![
        answer("It is a maple tree!", Some((3, Some("maple tree"))), 40, 31),
        answer("striped", Some((5, Some("striped"))), 300, 120),
        answer("", None, 30, 0),
        answer("dotted", Some((6, None)), 15, 2),
        answer(EVIL, None, 4, 0),
        answer("two\nlines\u{7}", None, 1, 0),
    ]
}

/// Has the models of a world that answer say these.
pub(super) fn say(world: &mut World, answers: Vec<Answer>) {
    let other_answers = 400 - answers.iter().map(|a| a.times).sum::<u64>();
    let speak = |r: &&mut Record| r.settings.method.method().name().starts_with("vlm-");
    for record in world.records.iter_mut().filter(speak) {
        record.training.frozen =
            Some(Frozen { batch: 8, answers: answers.clone(), other_answers, ..Frozen::default() });
    }
}

pub(super) fn asked(answers: Vec<Answer>) -> World {
    let mut world = World::of(&[Trial { backbone: "smolvlm_256m", ..trial("vlm-prompt", "none", GPU, 0) }]);
    say(&mut world, answers);
    world
}

/// The section of a page.
fn section(page: &str) -> &str {
    let section = page.split("<section id=\"answers\">").nth(1).and_then(|s| s.split("</section>").next());
    section.expect("a section")
}

/// The rows of its table, as a reader sees them.
fn rows(page: &str) -> Vec<String> {
    let body = section(page).split("<tbody>").nth(1).and_then(|s| s.split("</tbody>").next()).expect("a table");
    body.split("</tr>").map(visible).filter(|row| !row.is_empty()).collect()
}

#[test]
fn answers_are_listed_by_how_often_they_were_given_with_what_they_were_taken_for() {
    let page = html(&asked(said()).input());
    let rows = rows(&page);
    assert_eq!(
        rows[..4],
        ["300 120 striped striped", "40 31 maple tree It is a maple tree!", "30 0 none nothing", "15 2 class 6 dotted"]
    );
    assert_eq!(rows[5], "1 0 none two⏎lines\u{FFFD}");
    let text = visible(section(&page));
    assert!(text.contains(
        "smolvlm_256m · vlm-prompt, textures on NVIDIA GeForce RTX 4090, seed 0: 6 different answers and more"
    ));
    assert!(
        text.contains("Of 400 evaluated images these answers were right about 153; about 35 they named no class."),
        "{text}"
    );
    assert!(text.contains("What was said about 10 other images is not kept"), "{text}");
    assert!(!text.contains("most frequent are shown"));
}

#[test]
fn answers_are_text_and_the_page_fetches_nothing() {
    let page = html(&asked(said()).input());
    assert!(section(&page).contains("&lt;script&gt;alert(1)"));
    assert!(!page.contains("<script") && !page.contains("<svg/onload"), "markup got through");
    is_well_formed(&page);
    let harmless = said().into_iter().filter(|a| a.text != EVIL).collect();
    is_self_contained(&html(&asked(harmless).input()));
}

#[test]
fn a_page_shows_the_first_hundred_and_says_where_the_others_are() {
    let many = |n| (0..n).map(|i| answer(&format!("answer {i:03}"), None, if i < 100 { 2 } else { 1 }, 0)).collect();
    let page = html(&asked(many(150)).input());
    assert_eq!(rows(&page).len(), 100);
    let text = visible(section(&page));
    let expected = "The 100 most frequent are shown; 50 more, given 50 times, are in the record: `fleet export textures-micro --answers";
    assert!(text.contains(expected) && !text.contains("answer 100"), "{text}");
    let page = html(&asked(many(100)).input());
    assert!(rows(&page).len() == 100 && !visible(section(&page)).contains("most frequent are shown"));
    // The longest that records keep, in every character of which there is markup to escape.
    let longest = |i: usize| answer(&format!("{i:03}{}", "<".repeat(197)), None, 1, 0);
    let mut world = asked((0..MOST_ANSWERS.min(400)).map(longest).collect());
    let with = html(&world.input()).len();
    world.records[0].training.frozen = None;
    let without = html(&world.input());
    assert!(with - without.len() < 150_000, "{}", with - without.len());
    assert!(!without.contains("id=\"answers\""), "no section where nobody answers");
}

#[test]
fn the_table_has_all_that_the_record_keeps() {
    let mut world = asked(said());
    world.records.push(trial("full", "static", GPU, 0).record());
    let bytes = answers_csv(&world.records).expect("a table");
    let mut reader = csv::Reader::from_reader(bytes.as_slice());
    let head: Vec<String> = reader.headers().expect("a head").iter().map(str::to_owned).collect();
    let readme = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"));
    let of_answers =
        readme.split("--answers OUT` writes").nth(1).expect("told of").split("\n\n").next().expect("a paragraph");
    assert!(head.iter().all(|name| of_answers.contains(&format!("`{name}`"))), "{of_answers}");
    let rows: Vec<csv::StringRecord> = reader.records().map(|r| r.expect("a row")).collect();
    let of = |name: &str| -> Vec<&str> {
        let at = head.iter().position(|h| h == name).expect("a column");
        rows.iter().map(|row| &row[at]).collect()
    };
    assert_eq!(of("answer"), ["striped", "It is a maple tree!", "", "dotted", EVIL, "two\nlines\u{7}"]);
    assert_eq!(of("class_name"), ["striped", "maple tree", "", "", "", ""]);
    assert_eq!(
        (of("class"), of("times"), of("right")),
        (
            vec!["5", "3", "", "6", "", ""],
            vec!["300", "40", "30", "15", "4", "1"],
            vec!["120", "31", "0", "2", "0", "0"]
        )
    );
    assert!(of("images_not_kept").iter().all(|n| *n == "10") && of("backbone").iter().all(|n| *n == "smolvlm_256m"));
}
