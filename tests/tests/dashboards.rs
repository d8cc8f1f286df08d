//! Dashboard and alert rules speak of metrics that the programs export, and panels say what they show.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use fleet_observe::exposition;
use serde_json::Value;

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/grafana").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Names of all series that the programs export, those of histograms with their endings.
fn exported() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for page in [fleet_coordinator::metrics::declared(), fleet_agent::metrics::declared()] {
        for (name, kind) in exposition::read(&page).expect("a right page").types {
            if kind == "histogram" {
                names.extend(["bucket", "sum", "count"].map(|end| format!("{name}_{end}")));
            } else {
                names.insert(name);
            }
        }
    }
    names
}

/// What in a text looks like the name of one of our metrics.
fn used(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = |w: &&str| ["fleet_", "DCGM_", "process_"].iter().any(|start| w.starts_with(start));
    words.filter(ours).map(str::to_owned).collect()
}

fn dashboard() -> Value {
    serde_json::from_str(&file("dashboard.json")).expect("JSON")
}

fn panels(dashboard: &Value) -> &Vec<Value> {
    dashboard["panels"].as_array().expect("panels")
}

fn queries(panel: &Value) -> impl Iterator<Item = &str> {
    panel["targets"].as_array().into_iter().flatten().map(|t| t["expr"].as_str().expect("an expression"))
}

#[test]
fn every_metric_that_is_asked_for_is_exported() {
    let exported = exported();
    assert!(exported.contains("fleet_agents") && exported.contains("DCGM_FI_DEV_POWER_USAGE"), "{exported:?}");
    let dashboard = dashboard();
    let mut asked: BTreeSet<String> = panels(&dashboard).iter().flat_map(queries).flat_map(used).collect();
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    asked.extend(variables.iter().filter_map(|v| v["query"]["query"].as_str()).flat_map(used));
    let alerts = file("alerts.yml");
    let comments = |line: &&str| !line.trim_start().starts_with('#');
    asked.extend(alerts.lines().filter(comments).flat_map(used));
    assert!(asked.len() > 40, "{asked:?}");
    let unknown: Vec<&String> = asked.difference(&exported).collect();
    assert!(unknown.is_empty(), "no program exports {unknown:?}");
}

#[test]
fn readmes_list_what_is_exported_and_nothing_else() {
    let exported = |page: String| exposition::read(&page).expect("a right page").types.into_keys().collect();
    let programs: [(&str, BTreeSet<String>); 2] = [
        ("../../coordinator/README.md", exported(fleet_coordinator::metrics::declared())),
        ("../../agent/README.md", exported(fleet_agent::metrics::declared())),
    ];
    for (readme, exported) in programs {
        let listed = used(&file(readme));
        let missing: Vec<_> = exported.difference(&listed).collect();
        let wrong: Vec<_> = listed.difference(&exported).collect();
        assert!(missing.is_empty() && wrong.is_empty(), "{readme} lacks {missing:?}, and knows {wrong:?}");
    }
}

#[test]
fn each_panel_has_a_title_a_unit_a_description_and_a_place_of_its_own() {
    let dashboard = dashboard();
    assert!(dashboard["id"].is_null() && dashboard["schemaVersion"].as_u64().is_some_and(|v| v >= 39));
    let mut ids = BTreeSet::new();
    let mut cells: BTreeMap<(u64, u64), &str> = BTreeMap::new();
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().filter(|t| !t.is_empty()).expect("a title");
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{title}");
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|k| panel["gridPos"][k].as_u64().expect("a place"));
        assert!(w > 0 && h > 0 && x + w <= 24, "{title}");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            let other = cells.insert(cell, title);
            assert!(other.is_none(), "{title} lies upon {other:?}");
        }
        if panel["type"] == "row" {
            continue;
        }
        assert!(panel["description"].as_str().is_some_and(|d| d.len() > 20 && d.ends_with('.')), "{title}");
        assert!(panel["fieldConfig"]["defaults"]["unit"].as_str().is_some_and(|u| !u.is_empty()), "{title}");
        assert!(queries(panel).count() > 0, "{title}");
        let targets = panel["targets"].as_array().expect("targets");
        for source in targets.iter().chain([panel]).map(|p| &p["datasource"]["uid"]) {
            assert_eq!(source, "${datasource}", "{title}: whose Prometheus it is, is chosen in the dashboard");
        }
    }
}

#[test]
fn each_alert_says_what_is_wrong_and_what_to_do() {
    let alerts = file("alerts.yml");
    let rules: Vec<&str> = alerts.split("- alert: ").skip(1).collect();
    assert!(rules.len() >= 4, "{alerts}");
    for rule in rules {
        for part in ["expr:", "severity:", "summary:", "description:"] {
            assert!(rule.contains(part), "{part} in {rule}");
        }
    }
    assert!(file("prometheus.yml").contains("- alerts.yml"));
}
