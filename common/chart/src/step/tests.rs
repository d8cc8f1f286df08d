//! What a picture of a step must show, whatever it looks like.

use fleet_common::record::PeakPlace;

use super::*;
use crate::sheet::sheet;

const MIB: u64 = 1 << 20;

fn window(phase: &str, block: Option<u32>, at: f32, live: u64, peak: u64) -> MemoryWindow {
    let place = PeakPlace { phase: phase.to_owned(), block };
    MemoryWindow { place, at, live: live * MIB, peak: peak * MIB }
}

/// Two blocks, the second of which runs again.
fn by_hand() -> MemoryTrace {
    let windows = vec![
        window("forward", None, 0.0, 20, 22),
        window("forward", Some(0), 1.0, 21, 40),
        window("forward", Some(1), 3.0, 35, 50),
        window("recompute", Some(1), 5.0, 36, 60),
        window("backward", Some(1), 7.0, 55, 70),
        window("backward", Some(0), 9.0, 40, 45),
        window("optimizer", None, 12.0, 25, 26),
    ];
    MemoryTrace { step: 1, milliseconds: 13.0, windows }
}

/// A ViT of `blocks` blocks of which those from `from` on run again.
fn vit(blocks: u32, from: u32) -> MemoryTrace {
    let mut windows = Vec::new();
    let (mut at, mut live) = (0.0, 88);
    let mut push = |phase: &str, block, long: f32, live: u64, above: u64| {
        windows.push(window(phase, block, at, live, live + above));
        at += long;
    };
    push("forward", None, 6.0, live, 12);
    for block in 0..blocks {
        push("forward", Some(block), 14.0, live, 40);
        live += if block < from { 38 } else { 3 };
    }
    push("forward", None, 3.0, live, 4);
    push("backward", None, 4.0, live, 6);
    for block in (0..blocks).rev() {
        if block >= from {
            push("recompute", Some(block), 14.0, live, 41);
            live += 35;
        }
        push("backward", Some(block), 27.0, live, 30);
        live -= 36;
    }
    push("optimizer", None, 9.0, live, 2);
    MemoryTrace { step: 1, milliseconds: at, windows }
}

fn budget(bytes: u64) -> Limit {
    Limit { name: "budget", bytes }
}

fn step<'a>(heading: &str, trace: &'a MemoryTrace, limits: Vec<Limit>) -> Step<'a> {
    Step { heading: heading.to_owned(), method: Method::Full, shown: Shown::Trace(trace), limits }
}

fn lines<'a>(panel: &'a Panel) -> Vec<(&'a [(f64, f64)], Stroke)> {
    let of = |mark: &'a Mark| match mark {
        Mark::Line { points, stroke, .. } => Some((points.as_slice(), *stroke)),
        _ => None,
    };
    panel.marks.iter().filter_map(of).collect()
}

fn words(panel: &Panel) -> Vec<&str> {
    panel
        .marks
        .iter()
        .filter_map(|m| if let Mark::Words { text, .. } = m { Some(text.as_str()) } else { None })
        .collect()
}

#[test]
fn the_line_goes_through_begins_and_peaks() {
    let trace = by_hand();
    let panels = drawn(&[step("static", &trace, Vec::new())]);
    let (curve, _) = lines(&panels[0])[0];
    let by_hand: &[(f64, f64)] = &[
        (0.0, 20.0),
        (0.5, 22.0),
        (1.0, 21.0),
        (1.0, 21.0),
        (2.0, 40.0),
        (3.0, 35.0),
        (3.0, 35.0),
        (4.0, 50.0),
        (5.0, 36.0),
    ];
    assert_eq!(&curve[..9], by_hand);
    // The end of the last window is not known.
    assert_eq!(curve.last(), Some(&(12.5, 26.0)));
}

#[test]
fn everything_is_inside_the_axes_and_time_goes_forward() {
    let (kept, again) = (vit(12, 12), vit(12, 0));
    let mut odd = by_hand();
    odd.windows[3].at = 1.5;
    odd.windows[4].peak = 0;
    odd.milliseconds = 2.0;
    let limits = vec![budget(900 * MIB), Limit { name: "plan's limit", bytes: 880 * MIB }];
    let panels =
        drawn(&[step("none", &kept, limits), step("static", &again, Vec::new()), step("odd", &odd, Vec::new())]);
    for panel in &panels {
        let inside = |(x, y): (f64, f64)| {
            (panel.x.low()..=panel.x.high()).contains(&x) && (panel.y.low()..=panel.y.high()).contains(&y)
        };
        for (points, _) in lines(panel) {
            assert!(points.iter().all(|p| inside(*p)), "{points:?}");
            assert!(points.windows(2).all(|w| w[0].0 <= w[1].0), "{points:?}");
        }
        let (left, top, right, bottom) = panel.bounds();
        for mark in &panel.marks {
            match mark {
                Mark::Band { points, .. } => {
                    assert!(points.iter().all(|(x, low, high)| inside((*x, *low)) && inside((*x, *high))))
                }
                Mark::Shade { from, to } => assert!(from <= to && inside((*from, 0.0)) && inside((*to, 0.0))),
                Mark::Words { at, dx, dy, .. } => {
                    let (x, y) = (panel.place(*at).0 + dx, panel.place(*at).1 + dy);
                    assert!((left..=right).contains(&x) && (top..=bottom).contains(&y), "{:?}", words(panel));
                }
                _ => {}
            }
        }
    }
}

#[test]
fn panels_have_the_same_axes() {
    let (kept, again) = (vit(12, 12), vit(12, 0));
    let panels = drawn(&[step("none", &kept, Vec::new()), step("static", &again, vec![budget(600 * MIB)])]);
    assert_eq!((&panels[0].x, &panels[0].y), (&panels[1].x, &panels[1].y));
    assert_eq!(panels[0].x.high(), f64::from(again.milliseconds), "the longer one");
}

#[test]
fn blocks_that_run_again_are_marked_over_their_time_and_no_other() {
    let trace = by_hand();
    let panels = drawn(&[step("static", &trace, Vec::new())]);
    let strong: Vec<_> = panels[0]
        .marks
        .iter()
        .filter_map(|m| if let Mark::Band { points, opacity: STRONG, .. } = m { Some(points.as_slice()) } else { None })
        .collect();
    assert_eq!(strong, [[(5.0, 0.0, 36.0), (6.0, 0.0, 60.0), (7.0, 0.0, 55.0)].as_slice()]);
}

#[test]
fn phases_and_blocks_are_named_and_running_again_is_part_of_backward() {
    let trace = vit(9, 5);
    let panels = drawn(&[step("adaptive", &trace, Vec::new())]);
    let words = words(&panels[0]);
    assert_eq!(words[..3], ["forward", "backward", "optimizer"]);
    let numbers: Vec<&str> = words.iter().copied().filter(|w| w.parse::<u32>().is_ok()).collect();
    let each: Vec<String> = (0..9).chain((0..9).rev()).map(|b: u32| b.to_string()).collect();
    assert_eq!(numbers, each.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn the_peak_is_a_point_that_says_what_was_at_work() {
    let trace = by_hand();
    let panels = drawn(&[step("static", &trace, Vec::new())]);
    let points: Vec<_> = panels[0]
        .marks
        .iter()
        .filter_map(|m| if let Mark::Point { at, title, .. } = m { Some((*at, title.as_str())) } else { None })
        .collect();
    assert_eq!(points, [((8.0, 70.0), "70.00 MiB: backward of block 1")]);
}

#[test]
fn the_budget_is_a_broken_line_with_its_name_and_a_plan_s_limit_another() {
    let trace = by_hand();
    let limits = vec![budget(100 * MIB), Limit { name: "plan's limit", bytes: 98 * MIB }];
    let panels = drawn(&[step("planned", &trace, limits)]);
    let across = |y| [(0.0, y), (13.0, y)];
    let lines = lines(&panels[0]);
    assert!(lines.contains(&(&across(100.0), Stroke::Dashed)) && lines.contains(&(&across(98.0), Stroke::Dotted)));
    let words = words(&panels[0]);
    assert!(words.contains(&"budget 100 MiB") && words.contains(&"plan's limit 98.0 MiB"), "{words:?}");
}

#[test]
fn a_budget_far_above_is_named_and_does_not_flatten_the_line() {
    let trace = by_hand();
    let panels = drawn(&[step("none", &trace, vec![budget(4096 * MIB)])]);
    assert!(panels[0].y.high() < 100.0);
    assert_eq!(lines(&panels[0]).len(), 1);
    assert!(words(&panels[0]).contains(&"budget 4096 MiB ↑"));
}

#[test]
fn where_nothing_ran_stands_why() {
    let trace = by_hand();
    let why = "it needs 913.0 MiB of 512.0 MiB during forward of block 7: give it more, or run it with checkpointing";
    let none = Step { shown: Shown::Reason(why), ..step("none", &trace, vec![budget(60 * MIB)]) };
    let panels = drawn(&[none, step("static", &trace, Vec::new())]);
    assert!(words(&panels[0]).join(" ").contains(why));
    assert_eq!(panels[0].y, panels[1].y);
    // A trace without windows, or no step at all, is a picture too.
    let empty = MemoryTrace { step: 0, milliseconds: 0.0, windows: Vec::new() };
    assert!(sheet("empty", &[step("none", &empty, Vec::new())]).contains("</svg>"));
    assert!(sheet("nothing", &[]).contains("</svg>"));
}

#[test]
fn a_sheet_is_one_document_whose_texts_are_texts() {
    let trace = vit(12, 6);
    let text =
        sheet("<b>\"&", &[step("none <i>", &trace, vec![budget(500 * MIB)]), step("static", &trace, Vec::new())]);
    assert!(text.starts_with("<svg class=\"chart\" xmlns=\"http://www.w3.org/2000/svg\" width=\""));
    assert_eq!((text.matches("<svg").count(), text.matches("</svg>").count()), (3, 3));
    assert!(text.contains("none &lt;i&gt;") && !text.contains("<i>") && !text.contains("<b>"));
    assert!(!text.contains("could not be drawn") && !text.contains("href"));
    // Panels stand side by side.
    assert!(text.contains("x=\"16\" y=\"44\" width=\"560\" height=\"290\"") && text.contains("x=\"592\" y=\"44\""));
}

/// Writes a sheet to look at: `FLEET_REPORT_DIR=/some/folder cargo test … -- --ignored write_sheet`.
#[test]
#[ignore = "writes a file for people to look at"]
fn write_sheet() {
    let Some(folder) = std::env::var_os("FLEET_REPORT_DIR").map(std::path::PathBuf::from) else { return };
    let (none, again, late) = (vit(12, 12), vit(12, 0), vit(12, 7));
    let limits = || vec![budget(500 * MIB)];
    let with = |name, bytes| vec![budget(500 * MIB), Limit { name, bytes: bytes * MIB }];
    let why = "does not fit: needs 913.0 MiB of 500.0 MiB during forward of block 7; a budget of 913.0 MiB would hold it, \
               and so would static checkpointing";
    let steps = [
        step("none: 12 blocks kept", &none, limits()),
        step("static: peak 180 MiB in recompute of block 11", &again, limits()),
        step("adaptive: 5 blocks again", &late, with("threshold", 250)),
        step("planned", &late, with("plan's limit", 490)),
        Step { shown: Shown::Reason(why), ..step("none", &none, limits()) },
    ];
    std::fs::write(folder.join("sheet.svg"), sheet("vit_small_patch16_224, full, batch 32", &steps)).expect("written");
}
