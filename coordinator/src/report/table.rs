//! The comparison in a terminal: one table per data set and hardware class, failures and footnotes under it.

use std::collections::{BTreeMap, BTreeSet};

use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, LineStyle, Table, TableStyle, Width};
use fleet_common::compare::Comparison;
use fleet_common::plan::WeightsRef;
use fleet_common::record::{EnergyDomain, Reading, Record};
use fleet_common::score::{Summary, interval};

use super::blocks::{BEFORE, Block, Cost, Row, blocks, brief, counted};
use super::notes::Notes;
use super::numbers::{accuracy_decimals, count, fixed, mib, plural, significant, spread};
use super::settings::{self, brief_backbone};
use super::steps::{Family, families, plan_in_words};

/// One column: its head, how much it matters (the least goes first where room is short), and its cells.
struct Column {
    head: &'static str,
    weight: u8,
    numeric: bool,
    /// Shown where some rows train nothing: inference is what they can be compared by.
    inference: bool,
    cell: fn(&Row<'_>, &Notes) -> String,
}

const fn text(head: &'static str, weight: u8, cell: fn(&Row<'_>, &Notes) -> String) -> Column {
    Column { head, weight, numeric: false, inference: false, cell }
}

const fn number(head: &'static str, weight: u8, cell: fn(&Row<'_>, &Notes) -> String) -> Column {
    Column { head, weight, numeric: true, inference: false, cell }
}

const fn inference(head: &'static str, weight: u8, cell: fn(&Row<'_>, &Notes) -> String) -> Column {
    Column { head, weight, numeric: true, inference: true, cell }
}

/// From the left. What identifies a row never goes: it weighs [`KEPT`].
static COLUMNS: [Column; 20] = [
    text("backbone", KEPT, |r, _| brief_backbone(r.group.settings.backbone.name()).to_owned()),
    text("method", KEPT, |r, _| r.group.settings.method.method().name().to_owned()),
    text("checkpointing", KEPT, |r, _| settings::checkpointing(&r.group.settings).to_owned()),
    text("", KEPT, |r, _| {
        // What the label says beyond the three columns before, where those do not tell rows apart.
        let base = brief(&r.group.settings, r.label.starts_with(brief_backbone(r.group.settings.backbone.name())));
        r.label.strip_prefix(&base).unwrap_or_default().trim_start_matches(" · ").to_owned()
    }),
    number("n", 8, |r, _| r.group.completed.to_string()),
    number("top-1 %", KEPT, |r, _| {
        mean(r.group.top1_percent.as_ref(), |s| fixed(s.mean, accuracy_decimals(r.group.evaluated)))
    }),
    number("±", 7, |r, _| {
        let deviation = r.group.top1_percent.and_then(|s| s.deviation);
        deviation.map_or_else(|| "-".to_owned(), |d| spread(d, accuracy_decimals(r.group.evaluated)))
    }),
    number("trainable", 3, |r, _| count(r.group.trainable)),
    number("peak MiB", 9, |r, _| mean(r.group.training.peak_bytes.as_ref(), |s| significant(mib(s.mean), 3))),
    number("train s", 8, |r, _| mean(r.group.training.seconds.as_ref(), |s| significant(s.mean, 3))),
    number("img/s", 4, |r, _| mean(r.group.training.images_per_second.as_ref(), |s| significant(s.mean, 3))),
    number("J", 6, |r, notes| reading(&r.group.training.joules, notes, 3)),
    number("J>idle", SELDOM, |r, notes| match (&r.group.training.joules, &r.group.training.above_idle_joules) {
        // It lacks what the joules lack, which stands beside it.
        (Reading::Unavailable(_), _) => String::new(),
        (_, above) => reading(above, notes, 3),
    }),
    number("NS-M", 5, |r, notes| reading(&r.group.training.scores.ns_m, notes, 4)),
    number("NS#", 5, |r, notes| reading(&r.group.training.scores.ns_sharp, notes, 4)),
    inference("test MiB", 8, |r, _| mean(r.group.inference.peak_bytes.as_ref(), |s| significant(mib(s.mean), 3))),
    inference("test ms/img", 9, |r, _| mean(r.milliseconds_per_image().as_ref(), |s| significant(s.mean, 3))),
    inference("test J/img", 8, |r, notes| reading(&r.group.inference.joules_per_image, notes, 3)),
    inference("test NS#", 6, |r, notes| reading(&r.group.inference.scores.ns_sharp, notes, 4)),
    text("front", 2, |r, _| {
        Cost::ALL.into_iter().zip("MTE".chars()).filter(|(c, _)| r.on_front(*c) == Some(true)).map(|(_, c)| c).collect()
    }),
];

const KEPT: u8 = u8::MAX;
/// What is shown only where something was measured.
const SELDOM: u8 = 1;

/// Below this, a terminal's lines wrap whatever is left out.
const NARROWEST: usize = 40;

fn mean(summary: Option<&Summary>, show: impl Fn(&Summary) -> String) -> String {
    summary.map_or_else(|| "-".to_owned(), show)
}

fn reading(reading: &Reading<Summary>, notes: &Notes, digits: i32) -> String {
    match reading {
        Reading::Measured(s) => significant(s.mean, digits),
        Reading::Unavailable(why) => notes.number(why).map_or_else(|| "n/a".to_owned(), |n| format!("n/a [{n}]")),
    }
}

/// A comparison of `records` for a terminal of `width` columns; without a width, nothing is left out.
pub fn table(comparison: &Comparison, records: &[Record], width: Option<u16>) -> String {
    let notes = Notes::of(comparison, &[]);
    let blocks = blocks(comparison);
    if blocks.is_empty() {
        return "Nothing has finished yet.\n".to_owned();
    }
    let width = width.map_or(usize::MAX, |w| usize::from(w).max(NARROWEST));
    let mut out = String::new();
    let (columns, dropped) = fitting(&blocks, &notes, width);
    for block in &blocks {
        section(&mut out, block, records, &columns, &notes, width);
    }
    let mut foot = Vec::new();
    if !comparison.groups.is_empty() {
        foot.extend(how_to_read(&blocks, columns.iter().any(|c| c.head == "J>idle"), comparison));
    }
    if !dropped.is_empty() {
        foot.push(format!("Left out for want of room: {}.", dropped.join(", ")));
    }
    // What was left out takes its notes along.
    let told = notes.iter().map(|(n, why)| (format!("[{n}]"), why)).filter(|(mark, _)| out.contains(mark));
    foot.extend(told.map(|(mark, why)| format!("{mark} {why}")));
    for line in foot {
        wrap(&mut out, &line, width);
    }
    out
}

fn section(out: &mut String, block: &Block<'_>, records: &[Record], columns: &[&Column], notes: &Notes, width: usize) {
    let evaluated = block.evaluated.map(|n| format!(", {} evaluated", plural(n, "image"))).unwrap_or_default();
    // Rows that differ in their weights say so themselves.
    let scratch = |r: &Row<'_>| r.group.settings.weights == WeightsRef::Scratch;
    let start = if !block.rows.is_empty() && block.rows.iter().all(scratch) { ", trained from scratch" } else { "" };
    wrap(out, &format!("{}{evaluated}{start}", block.title()), width);
    if !block.rows.is_empty() {
        let free = render(block, columns, notes, None);
        let narrow = || render(block, columns, notes, u16::try_from(width).ok());
        out.push_str(&if fits(&free, width) { free } else { narrow() });
    }
    for (record, plan) in families(block, records).iter().flat_map(Family::planned) {
        wrap(out, &format!("{}: {}", block.label(record), plan_in_words(plan)), width);
    }
    // One line per combination and reason, however many seeds met it.
    let mut failures: BTreeMap<(String, String), BTreeSet<u64>> = BTreeMap::new();
    for f in &block.failures {
        let reason = f.outcome.reason().map(|r| format!(": {r}")).unwrap_or_default();
        let key = (brief(&f.settings, true), format!("{}{reason}", f.outcome.class()));
        failures.entry(key).or_default().insert(f.settings.seed);
    }
    for ((combination, what), seeds) in failures {
        let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
        let noun = if seeds.len() == 1 { "seed" } else { "seeds" };
        wrap(out, &format!("x {combination}, {noun} {}: {what}", seeds.join(" ")), width);
    }
    out.push('\n');
}

/// As many columns as fit, the same for all tables, and the heads of the others.
fn fitting(blocks: &[Block<'_>], notes: &Notes, width: usize) -> (Vec<&'static Column>, Vec<&'static str>) {
    let tables = || blocks.iter().filter(|b| !b.rows.is_empty());
    // Of what a machine seldom has, a column that says "n/a" throughout says nothing.
    let is_empty = |c: &Column, cell: String| cell.is_empty() || c.weight == SELDOM && cell.starts_with("n/a");
    let says_something = |c: &&Column| {
        let always = !c.head.is_empty() && c.weight > SELDOM;
        always || tables().flat_map(|b| &b.rows).any(|r| !is_empty(c, (c.cell)(r, notes)))
    };
    let untrained = blocks.iter().any(Block::has_untrained);
    let wanted = |c: &&Column| (untrained || !c.inference) && says_something(c);
    let mut columns: Vec<&Column> = COLUMNS.iter().filter(wanted).collect();
    let mut dropped = Vec::new();
    while !tables().all(|b| fits(&render(b, &columns, notes, None), width)) {
        let lightest = columns.iter().enumerate().filter(|(_, c)| c.weight < KEPT).min_by_key(|(_, c)| c.weight);
        let Some((i, _)) = lightest else { break };
        dropped.push(columns.remove(i).head);
    }
    (columns, dropped)
}

fn fits(text: &str, width: usize) -> bool {
    text.lines().all(|line| line.chars().count() <= width)
}

fn render(block: &Block<'_>, columns: &[&Column], notes: &Notes, width: Option<u16>) -> String {
    let mut table = Table::new();
    table.load_style(TableStyle::new().header_separator(LineStyle::none().fill('-').junction('-')));
    table.set_content_arrangement(match width {
        Some(_) => ContentArrangement::Dynamic,
        None => ContentArrangement::Disabled,
    });
    if let Some(width) = width {
        table.set_width(width);
    }
    let align = |c: &Column| if c.numeric { CellAlignment::Right } else { CellAlignment::Left };
    table.set_header(columns.iter().map(|c| Cell::new(c.head).set_alignment(align(c))));
    for row in &block.rows {
        table.add_row(columns.iter().map(|c| Cell::new((c.cell)(row, notes)).set_alignment(align(c))));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 1));
    }
    if width.is_some() {
        // Numbers are never broken over lines; words may be.
        let numeric = columns.iter().enumerate().filter(|(_, c)| c.numeric);
        for (i, _) in numeric {
            if let Some(column) = table.column_mut(i) {
                column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(7)));
            }
        }
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn how_to_read(blocks: &[Block<'_>], above_idle: bool, comparison: &Comparison) -> Vec<String> {
    let mut lines = vec![
        "Values are means over n completed trials (seeds x repeats); ± is the sample standard deviation of top-1 %. \
         Peak MiB, train s, img/s and J are of training, peak as counted by the tensor allocator. NS-M and NS# are \
         scores with training cost. Front: no other row of the table has at least the accuracy for less memory (M), \
         time (T) or energy (E), by the means alone. Tables are not comparable with each other."
            .to_owned(),
    ];
    if blocks.iter().any(Block::has_untrained) {
        lines.push(format!(
            "{BEFORE} Test MiB, ms/img, J/img and NS# are of classifying the test images, which is what all rows can be \
             compared by. {}",
            counted(comparison.preparation)
        ));
    }
    let domains: BTreeSet<EnergyDomain> =
        blocks.iter().flat_map(|b| &b.rows).filter_map(|r| r.group.training.domain).collect();
    let words: Vec<&str> = domains.into_iter().map(super::blocks::domain_in_words).collect();
    if !words.is_empty() {
        lines.push(format!(
            "J covers {}, idle power included.{}{}",
            words.join("; on other hardware "),
            if above_idle { " J>idle is what is beyond it." } else { "" },
            how_sure(blocks, comparison.exponents.w)
        ));
    }
    lines
}

/// How far joules may be off by their meters, and what that does to the scores that rest on them.
fn how_sure(blocks: &[Block<'_>], w: f64) -> String {
    let errors =
        blocks.iter().flat_map(|b| &b.rows).filter_map(|r| Some(r.group.training.energy_error.as_ref()?.sensor));
    let Some(most) = errors.reduce(f64::max) else { return String::new() };
    format!(
        " By its meter J may be off by ± {} % and NS# by ± {}, alike for all trials on one device.",
        significant(most * 100.0, 2),
        significant(interval::decibels(most, w), 2)
    )
}

/// Appends `text` in lines of at most `width` characters, broken between words, later lines indented.
pub(super) fn wrap(out: &mut String, text: &str, width: usize) {
    let mut line = 0;
    for word in text.split_whitespace() {
        // A message comes from another machine: it must not steer this terminal.
        let word = word.replace(char::is_control, "?");
        let length = word.chars().count();
        if line > 0 && line + 1 + length > width {
            out.push_str("\n  ");
            line = 2;
        } else if line > 0 {
            out.push(' ');
            line += 1;
        }
        out.push_str(&word);
        line += length;
    }
    out.push('\n');
}
