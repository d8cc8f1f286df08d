//! Published models that are not trained, as cells of a campaign: small ones with random weights in the public layouts.

use std::path::{Path, PathBuf};

use fleet_common::spec::Foundation;
use fleet_tests::{Fleet, published};
use serde_json::Value;

/// What each model of deploy/campaigns/foundations.toml is used for.
const USES: [(Foundation, &[&str]); 6] = [
    (Foundation::OpenClipL14, &["zero-shot", "knn", "linear-probe"]),
    (Foundation::SiglipLarge, &["zero-shot", "knn", "linear-probe"]),
    (Foundation::Dinov2Large, &["knn", "linear-probe"]),
    (Foundation::SmolVlm256m, &["vlm-prompt", "vlm-score"]),
    (Foundation::PaliGemma3b, &["vlm-prompt", "vlm-score"]),
    (Foundation::MobileVlm, &["vlm-prompt", "vlm-score"]),
];

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The folders of all six.
fn weights(fleet: &Fleet) -> String {
    let weights = fleet.path().join("weights");
    for (foundation, _) in USES {
        published::write(&repository("tests/fixtures"), &weights, foundation);
    }
    weights.to_str().expect("a path").to_owned()
}

/// The campaign of the repository, on other data and shorter.
fn campaign(fleet: &Fleet, dataset: &str) -> PathBuf {
    let text = std::fs::read_to_string(repository("deploy/campaigns/foundations.toml")).expect("the campaign");
    let text =
        text.replace("[\"cifar100\", \"dtd\"]", &format!("[{dataset}]")).replace("batch = 64", "batch = 8\nlimit = 16")
            + "[method.linear-probe]\nsteps = 50\n";
    // The small models read fewer words than their originals.
    let short = "\nprompt = \"What is this texture ?\"\n";
    fleet.file(
        "foundations.toml",
        &(text + "[method.vlm-prompt]" + short + "new_tokens = 3\n[method.vlm-score]" + short),
    )
}

/// Runs the campaign with all six models on these data sets; the report, and its page.
fn run(fleet: &Fleet, datasets: &str, data: Option<&Path>) -> (Value, String) {
    let weights = weights(fleet);
    let file = campaign(fleet, datasets);
    let page = fleet.path().join("foundations.html");
    let text = |path: &Path| path.to_str().expect("a path").to_owned();
    let mut arguments = vec!["local".to_owned(), text(&file), "--weights".to_owned(), weights];
    arguments.extend(["--report".to_owned(), text(&page), "--json".to_owned()]);
    if let Some(data) = data {
        arguments.extend(["--data".to_owned(), text(data)]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let report = fleet.fleet(&arguments).ended_with(0).json();
    (report, std::fs::read_to_string(page).expect("the page"))
}

/// Cells on one data set.
fn cells() -> usize {
    USES.iter().map(|(_, methods)| methods.len()).sum()
}

#[test]
fn the_studys_baselines_run_on_the_real_data_sets_where_they_are() {
    let shared = std::env::var_os("FLEET_SHARED").map_or_else(|| repository("../shared"), PathBuf::from);
    let data = shared.join("data");
    if !data.is_dir() {
        println!("skipped: ../shared/data is absent (FLEET_SHARED names another place than ../shared)");
        return;
    }
    let fleet = Fleet::new();
    let (report, _) = run(&fleet, "\"cifar100\", \"dtd\"", Some(&data));
    assert_eq!(report["finished"]["completed"], 2 * cells(), "{report}");
}

#[test]
fn the_studys_baselines_run_from_one_campaign_and_are_compared_by_what_inference_costs() {
    let fleet = Fleet::new();
    let (report, html) = run(&fleet, "\"textures\"", None);
    assert_eq!(report["finished"]["completed"], cells(), "{report}");
    let groups = report["comparison"]["groups"].as_array().expect("groups");
    for (foundation, methods) in USES {
        for method in methods {
            let of = |g: &&Value| {
                g["settings"]["backbone"] == foundation.name() && g["settings"]["method"]["name"] == *method
            };
            let found: Vec<&Value> = groups.iter().filter(of).collect();
            let [group] = found[..] else { panic!("{} groups of {} {method}", found.len(), foundation.name()) };
            assert_eq!((&group["evaluated"], &group["settings"]["train"]), (&16.into(), &Value::Null));
            assert_eq!(group["settings"]["weights"]["from"], "folder");
            assert!(group["top1_percent"]["mean"].is_number() && group["macs"].as_u64() > Some(10_000), "{group}");
            // What inference costs has a score without a meter, and what precedes it has none.
            assert!(group["inference"]["scores"]["ns"]["measured"].is_object() || group["top1_percent"]["mean"] == 0.0);
            assert!(group["training"]["scores"]["ns"]["unavailable"].is_string(), "{group}");
        }
    }
    assert!(USES.iter().all(|(foundation, _)| html.contains(foundation.name())));
    fleet.no_worker_is_left();
}

#[test]
fn what_a_folder_lacks_is_said_before_anything_runs() {
    let fleet = Fleet::new();
    let weights = weights(&fleet);
    let file = campaign(&fleet, "\"textures\"");
    let file = file.to_str().expect("a path");
    let folder = Path::new(&weights).join(Foundation::Dinov2Large.name());
    std::fs::rename(&folder, fleet.path().join("away")).expect("renames");
    let plan = fleet.fleet(&["plan", file, "--weights", &weights]).ended_with(0);
    assert!(plan.stdout.contains("the folder dinov2_large/"), "{}", plan.stdout);
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(
        folder.join("model.safetensors.index.json"),
        "{\"weight_map\": {\"a\": \"model-00001-of-00002.safetensors\"}}",
    )
    .expect("writes");
    let refused = fleet.fleet(&["plan", file, "--weights", &weights]).ended_with(2);
    assert!(refused.stderr.contains("model-00001-of-00002.safetensors is not there"), "{}", refused.stderr);
}
