//! Energy from meters to reports: what is characterised, flagged, wasted, and told.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up should say so at once")]

use fleet_tests::{Fleet, Power, long};
use serde_json::Value;

/// Sensors beside the packages: an AMD GPU that draws 87 W, a plug that tells 142 W.
fn other_meters(fleet: &Fleet) -> (String, String) {
    let hwmon = fleet.path().join("hwmon");
    std::fs::create_dir_all(hwmon.join("hwmon3")).unwrap();
    for (file, text) in [("name", "amdgpu\n"), ("power1_average", "87000000\n"), ("temp1_input", "51000\n")] {
        std::fs::write(hwmon.join("hwmon3").join(file), text).unwrap();
    }
    let plug = fleet.file("plug.json", r#"{"meters": [{"power": 142.0}]}"#);
    (hwmon.display().to_string(), format!("{}#/meters/0/power", plug.display()))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("no number: {value}"))
}

#[test]
fn doctor_shows_every_meter_what_it_reads_and_what_it_lacks() {
    let fleet = Fleet::new();
    let power = Power::play(&fleet.path().join("powercap"));
    let (hwmon, plug) = other_meters(&fleet);
    let powercap = power.dir().display().to_string();
    let arguments = ["doctor", "--meters", "--powercap", &powercap, "--hwmon", &hwmon, "--wall-meter", &plug];
    let text = fleet.run("fleet-agent", &arguments).ended_with(0).stdout;
    for part in
        ["cpu packages (charged to trials)", "sensor (beside it): 87.0 W", "wall (beside it): 142.0 W", "± 5.0 %"]
    {
        assert!(text.contains(part), "lacks {part}:\n{text}");
    }
    let survey = fleet.run("fleet-agent", &[&arguments[..], &["--json"]].concat()).ended_with(0).json();
    let device = &survey["slots"][0]["device"]["measured"];
    assert!((number(&device["watts"]["measured"]) - Power::WATTS).abs() < 2.5, "{device}");
    assert!(number(&device["seen_update_seconds"]) < 0.1, "{device}");

    // Without permission, and without anything.
    std::fs::write(power.dir().join("unused"), "").unwrap();
    let nothing = fleet.run("fleet-agent", &["doctor", "--meters", "--powercap", "/nowhere"]).ended_with(0).stdout;
    assert!(nothing.contains("no energy meter: no CPU energy counters"), "{nothing}");
    fleet
        .run("fleet-agent", &["doctor", "--meters", "--wall-meter", "ftp://plug"])
        .ended_with(2)
        .says(&["expected a file or an http:// address"]);
}

#[test]
fn calibration_finds_idle_power_and_updates_and_a_comparison_scales_every_later_record() {
    let fleet = Fleet::new();
    let power = Power::play(&fleet.path().join("powercap"));
    let powercap = power.dir().display().to_string();
    let calibrate = |more: &[&str]| {
        let base = ["calibrate", "--device", "cpu", "--powercap", &powercap, "--json"];
        fleet.run("fleet-agent", &[&base[..], more].concat())
    };
    let found = calibrate(&["--seconds", "3"]).ended_with(0).json();
    let meter = &found["slots"][0]["meters"]["Ok"][0][1];
    let idle = &meter["idle"]["measured"];
    assert!((number(&idle["watts"]) - Power::WATTS).abs() < 2.5 && number(&idle["seconds"]) == 3.0, "{meter}");
    assert!(number(&meter["response"]["update_seconds"]) < 0.05, "{meter}");
    for (wrong, words) in [
        (&["--factor", "9", "--interval", "0.1"][..], "expected a factor from 0.5 to 2"),
        (&["--factor", "1.1"], "--interval"),
        (&["--factor", "1.1", "--interval", "1.5"], "expected a share"),
        (&["--seconds", "0"], "expected seconds from 2"),
    ] {
        calibrate(wrong).ended_with(2).says(&[words]);
    }
    calibrate(&["--factor", "1.2", "--interval", "0.01", "--basis", "a plug, for an hour"]).ended_with(0);

    let campaign = fleet.campaign("scaled", 1, "", "");
    let (hwmon, plug) = other_meters(&fleet);
    let report = fleet
        .run_with("fleet", &["local", &campaign.display().to_string(), "--json", "--grams-per-kwh", "400"], |command| {
            command.env("FLEET_POWERCAP", &powercap).env("FLEET_HWMON", &hwmon).env("FLEET_WALL_METER", &plug);
        })
        .ended_with(0)
        .json();
    let group = &report["comparison"]["groups"][0];
    let training = &group["training"];
    let watts = number(&training["watts"]["measured"]["mean"]);
    assert!((watts / (1.2 * Power::WATTS) - 1.0).abs() < 0.05, "{watts} W; played were {}", Power::WATTS);
    // The packages draw the same whatever runs: nothing is beyond idle power.
    let (total, above) =
        (number(&training["joules"]["measured"]["mean"]), number(&training["above_idle_joules"]["measured"]["mean"]));
    assert!(above.abs() < 0.15 * total, "{above} J of {total} J above idle");
    assert_eq!(training["energy_error"]["basis"][0], "a plug, for an hour");
    let ns = &training["scores"]["ns_e"]["measured"]["mean"];
    let interval = &training["intervals"]["ns_e"];
    assert!(number(&interval["low"]) < number(ns) && number(ns) < number(&interval["high"]), "{interval}");
    let energy = &report["energy"][0];
    assert!(number(&energy["useful_joules"]) > total && energy["wasted_attempts"] == 0, "{energy}");
    let page = std::fs::read_to_string(fleet.path().join("fleet-state/scaled.html")).unwrap();
    for part in ["Above idle", "× 1.2", "a plug, for an hour", "the whole machine at the wall", "amdgpu", "400 g/kWh"]
    {
        assert!(page.contains(part), "the page lacks {part}");
    }
    calibrate(&["--forget"]).ended_with(0);
    let forgotten = fleet.run("fleet-agent", &["doctor", "--meters", "--powercap", &powercap]).ended_with(0).stdout;
    assert!(forgotten.contains("± 5.0 %"), "{forgotten}");
}

#[test]
fn before_the_first_trial_of_a_day_the_agent_looks_at_its_meters_and_only_then() {
    let fleet = Fleet::new();
    let power = Power::play(&fleet.path().join("powercap"));
    let file = long(&fleet, "looked", 20);
    let run = |state: &str| {
        let arguments = ["local", &file, "--json", "--characterise", "auto", "--state", state];
        fleet.run_with("fleet", &arguments, |command| {
            command.env("FLEET_POWERCAP", power.dir());
        })
    };
    let first = run("one").ended_with(0).says(&["first, once a day: measuring idle power for 30 s"]);
    let training = &first.json()["comparison"]["groups"][0]["training"];
    assert!(training["above_idle_joules"]["measured"]["mean"].is_number(), "{training}");
    let began = std::time::Instant::now();
    let second = run("two").ended_with(0);
    assert!(!second.stderr.contains("once a day"), "{}", second.stderr);
    assert!(began.elapsed().as_secs() < 30, "what is known is not measured again");
    assert!(second.json()["comparison"]["groups"][0]["training"]["above_idle_joules"]["measured"].is_object());
}
