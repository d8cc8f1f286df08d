//! Comparisons of what several machines have measured, from the agents to the page; and what is not right on that way.

use std::collections::BTreeSet;
use std::process::Command;

use fleet_tests::{Agent, Coordinator, Fleet, finish, program, wait_until, with_small_files};
use serde_json::Value;

/// A campaign of one very short trial per class.
fn single(fleet: &Fleet, name: &str) -> String {
    let file = fleet.campaign(name, 1, "hardware = \"each\"", "");
    let text = std::fs::read_to_string(&file).expect("a file");
    let text =
        text.replace("[\"full\", \"lora\", \"bitfit\"]", "\"full\"").replace("[\"none\", \"static\"]", "\"none\"");
    std::fs::write(&file, text).expect("writes");
    file.to_str().expect("a path").to_owned()
}

/// An agent with a label. Its locks are its own: it stands for another machine.
fn labelled(fleet: &Fleet, coordinator: &Coordinator, label: &str) -> Agent {
    let locks = format!("locks of {label}");
    let agent = Agent::start(fleet, &coordinator.url, label, &["--label", label, "--lock-dir", &locks]);
    wait_until("the agent", || agent.log().contains("registered"));
    agent
}

#[test]
fn agents_that_their_labels_tell_apart_are_each_asked_once_and_set_side_by_side() {
    let fleet = Fleet::new();
    let file = fleet.campaign("labelled", 1, "hardware = \"each\"", "");
    let coordinator = Coordinator::start(&fleet, "127.0.0.1:0", &[]);
    let url = ["--coordinator", coordinator.url.as_str()];
    let _agents = ["15 W", "65 W"].map(|label| labelled(&fleet, &coordinator, label));
    let submitted = fleet.fleet(&["submit", file.to_str().expect("a path"), url[0], url[1], "--json"]).ended_with(0);
    assert_eq!(submitted.json()["trials"], 12, "six cells, two classes");
    fleet.fleet(&["watch", "labelled", url[0], url[1]]).ended_with(0);

    // Exactly one record for each cell and class, and the label in it.
    let lines = fleet.fleet(&["export", "labelled", "--jsonl", "-", url[0], url[1]]).ended_with(0).stdout;
    let records: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("a record")).collect();
    let places: BTreeSet<(String, String)> = records
        .iter()
        .map(|r| {
            let (class, label) = (&r["machine"]["hardware"], r["machine"]["label"].as_str().expect("a label"));
            assert_eq!(*class, r["trial"]["hardware"], "it ran where it was asked for");
            assert!(class.as_str().is_some_and(|c| c.ends_with(&format!(" CPUs [{label}]"))), "{class}");
            (r["trial"]["cell"].to_string(), label.to_owned())
        })
        .collect();
    assert_eq!((records.len(), places.len()), (12, 12), "{places:?}");

    let compared = fleet
        .fleet(&["compare", "labelled", "--by", "hardware", "--html", "out/by-hardware.html", "--json", url[0], url[1]])
        .ended_with(0)
        .json();
    assert_eq!(compared["levels"].as_array().map(Vec::len), Some(2), "{compared}");
    let sides = compared["combinations"].as_array().expect("combinations").iter().flat_map(|c| c["sides"].as_array());
    assert_eq!(sides.flatten().map(|s| s["completed"].as_u64()).collect::<Vec<_>>(), [Some(1); 12]);
    // The same trials on the same machine: what does not depend on time is the same.
    let peak = &compared["ratios"][0]["training"]["peak_bytes"]["measured"];
    assert_eq!((&peak["geometric_mean"], &peak["combinations"]), (&1.0.into(), &6.into()), "{peak}");
    let seconds = &compared["ratios"][0]["training"]["seconds"]["measured"];
    assert!(seconds["geometric_mean"].as_f64().is_some_and(|r| r > 0.0), "{seconds}");
    let measures = compared["agreement"][0]["measures"].as_array().expect("measures");
    let tau = |name: &str| measures.iter().find(|m| m["measure"] == name).expect("a measure")["tau_b"].clone();
    assert_eq!(tau("training.peak_bytes"), serde_json::json!({ "measured": 1.0 }));
    assert!(tau("training.seconds")["measured"].is_number());

    let page = std::fs::read_to_string(fleet.path().join("out/by-hardware.html")).expect("a page");
    for fact in ["[15 W]", "label 65 W", "Kendall's tau-b over 6 combinations", "geometric mean over 6 combinations"] {
        assert!(page.contains(fact), "lacks {fact}");
    }
    for chart in ["Training time of", "Peak training memory of"] {
        assert!(page.contains(&format!("aria-label=\"{chart}")), "lacks the chart of {chart}");
    }
    for outside in ["<script", "<link", "<img", "src=", "url(", "@import"] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn other_data_under_the_same_name_is_trained_on_by_nobody_and_compared_with_nothing() {
    let fleet = Fleet::new();
    let coordinator = Coordinator::start(&fleet, "127.0.0.1:0", &["--lease-seconds", "2"]);
    let url = ["--coordinator", coordinator.url.as_str()];
    let before = single(&fleet, "before");
    let first = labelled(&fleet, &coordinator, "first");
    fleet.fleet(&["submit", &before, url[0], url[1]]).ended_with(0);
    fleet.fleet(&["watch", "before", url[0], url[1]]).ended_with(0);
    assert_eq!(first.terminate(), Some(0));
    let agents = || fleet.fleet(&["status", "--json", url[0], url[1]]).ended_with(0).json()["agents"].clone();
    wait_until("the first agent to be forgotten", || agents() == serde_json::json!([]));
    // One byte of one image changes behind the path.
    let labels = std::fs::read_to_string(fleet.data().join("textures/labels/test1.txt")).expect("labels");
    let image = fleet.data().join("textures/images").join(labels.lines().next().expect("a line"));
    let mut bytes = std::fs::read(&image).expect("an image");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&image, bytes).expect("writes");
    // The same settings, planned on the new content.
    let _second = labelled(&fleet, &coordinator, "second");
    let after = single(&fleet, "after");
    fleet.fleet(&["submit", &after, url[0], url[1]]).ended_with(0);
    fleet.fleet(&["watch", "after", url[0], url[1]]).ended_with(0);
    let args = ["compare", "before", "after", "--by", "hardware", "--html", "page.html"];
    let json = fleet.fleet(&[&args[..], &["--json"], &url].concat()).ended_with(0).json();
    assert_eq!(json["combinations"], serde_json::json!([]), "{json}");
    let difference = &json["not_compared"][0]["differences"][0];
    assert_eq!(difference["setting"], "dataset.fingerprint", "{json}");
    let page = std::fs::read_to_string(fleet.path().join("page.html")).expect("a page");
    let short = |side: &str| difference[side].as_str().map(|hash| hash[..8].to_owned()).expect("a hash");
    assert!(page.contains(&format!("data of content {} and {}", short("one"), short("other"))), "both are named");
}

#[test]
fn records_that_are_not_right_are_refused_and_what_was_there_stays() {
    let fleet = Fleet::new();
    let coordinator = Coordinator::start(&fleet, "127.0.0.1:0", &[]);
    let url = ["--coordinator", coordinator.url.as_str()];
    let file = single(&fleet, "here");
    let _agent = labelled(&fleet, &coordinator, "only");
    fleet.fleet(&["submit", &file, url[0], url[1]]).ended_with(0);
    fleet.fleet(&["watch", "here", url[0], url[1]]).ended_with(0);
    let export = |name: &str| fleet.fleet(&["export", name, "--jsonl", "-", url[0], url[1]]).ended_with(0).stdout;
    let whole = export("here");
    let import = |text: &str, name: &str| {
        fleet.file("r.jsonl", text);
        fleet.fleet(&["import", "r.jsonl", "--as", name, url[0], url[1]])
    };
    import(&whole, "lab").ended_with(0);

    // The same name for other content, and for a campaign.
    let other = whole.replace("\"samples_taken\":", "\"samples_taken\":1");
    assert_ne!(other, whole);
    import(&other, "lab").ended_with(2).says(&["\"lab\"", "other content (1 record", "--as"]);
    import(&whole, "here").ended_with(2).says(&["\"here\" is a campaign", "--as"]);
    // A record cut short, alone and behind one that is whole.
    let half = &whole[..whole.len() / 2];
    import(half, "cut").ended_with(2).says(&["r.jsonl, line 1: the record is cut short"]);
    import(&format!("{whole}{half}"), "cut").ended_with(2).says(&["r.jsonl, line 2: the record is cut short"]);
    // Settings that somebody has changed by hand are not those that the cell's name is the hash of.
    let edited = whole.replace("\"steps\":4", "\"steps\":5");
    assert_ne!(edited, whole);
    import(&edited, "edited").ended_with(2).says(&["r.jsonl, line 1:"]);

    assert_eq!(export("lab"), whole, "what was there is as it was");
    for name in ["cut", "edited"] {
        let args = ["compare", "here", name, "--by", "hardware", "--html", "page.html", url[0], url[1]];
        fleet.fleet(&args).ended_with(2).says(&[name]);
    }
    assert!(!fleet.path().join("page.html").exists(), "no page of half a comparison");
}

#[test]
fn a_page_is_written_whole_or_not_at_all() {
    let fleet = Fleet::new();
    let coordinator = Coordinator::start(&fleet, "127.0.0.1:0", &[]);
    let url = ["--coordinator", coordinator.url.as_str()];
    let file = single(&fleet, "paged");
    let _agent = labelled(&fleet, &coordinator, "only");
    fleet.fleet(&["submit", &file, url[0], url[1]]).ended_with(0);
    fleet.fleet(&["watch", "paged", url[0], url[1]]).ended_with(0);
    let to = |mut command: Command, page: &str| {
        finish(fleet.here(&mut command).args(["compare", "paged", "--by", "method", "--html", page, url[0], url[1]]))
    };
    let fleet_to = |page: &str| to(Command::new(program("fleet")), page);
    // A folder that is not there is made; what was there is replaced.
    let out = fleet_to("new/folder/page.html").ended_with(0);
    assert!(out.stdout.contains("Comparison: new/folder/page.html"), "{}", out.stdout);
    let page = fleet.path().join("new/folder/page.html");
    std::fs::write(&page, "what was there").expect("writes");
    // Full: the kernel refuses the write after a few KiB.
    to(with_small_files(4, &program("fleet")), "new/folder/page.html")
        .ended_with(1)
        .says(&["cannot write the comparison new/folder/page.html"]);
    assert_eq!(std::fs::read_to_string(&page).expect("there"), "what was there");
    let left = std::fs::read_dir(page.parent().expect("a folder")).expect("a folder").count();
    assert_eq!(left, 1, "nothing half is left beside it");
    fleet_to("new/folder/page.html").ended_with(0);
    assert!(std::fs::read_to_string(&page).expect("there").ends_with("</html>"));
    // What is no file is left alone.
    fleet_to("/dev/full").ended_with(2).says(&["/dev/full", "is not a file"]);
    fleet_to("new").ended_with(2).says(&["new", "is not a file"]);
    fleet_to("paged.toml/page.html").ended_with(1).says(&["cannot write the comparison paged.toml/page.html"]);
}

#[test]
fn a_label_that_cannot_be_one_is_refused_with_what_is_expected() {
    let fleet = Fleet::new();
    for label in ["", "a/b", "[x]"] {
        fleet.run("fleet-agent", &["run", "--label", label]).ended_with(2).says(&[
            "--label",
            "1 to 40 printable characters",
            "250 W",
        ]);
    }
}
