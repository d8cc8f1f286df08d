//! systemd: its own opinion where it is installed, and what its manual says of the directives that matter here.

use std::collections::HashMap;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;

use super::{ODD, file, script};

/// `Directive=value` lines by directive; later ones come after earlier ones.
fn directives(unit: &str) -> HashMap<&str, Vec<&str>> {
    let mut found: HashMap<&str, Vec<&str>> = HashMap::new();
    let lines = unit.lines().filter(|l| !l.starts_with(['#', '[']) && !l.is_empty());
    for (directive, value) in lines.map(|l| l.split_once('=').unwrap_or_else(|| panic!("{l}"))) {
        found.entry(directive).or_default().push(value);
    }
    found
}

/// `systemd-analyze verify` on units whose programs are there; `None` where there is no systemd.
fn verify(units: &[(&str, &str)]) -> Option<(bool, String)> {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("skipped: systemd-analyze is not installed here");
        return None;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let mut command = Command::new("systemd-analyze");
    command.args(["verify", "--man=no"]).env("HOME", dir.path());
    for (name, text) in units {
        let path = dir.path().join(name);
        let programs = ["fleet-agent", "fleet"].map(|p| format!("/opt/netscore-fleet/target/release/{p}"));
        let here = text.replace(&programs[0], "/bin/true").replace(&programs[1], "/bin/true");
        std::fs::write(&path, here).expect("written");
        command.arg(path);
    }
    let output = command.output().expect("runs");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    // In a container there is no bus and no other unit; what it says about ours names their files.
    let ours: Vec<&str> = words.lines().filter(|l| units.iter().any(|(name, _)| l.contains(name))).collect();
    Some((output.status.success() && ours.is_empty(), words))
}

#[test]
fn systemd_has_nothing_to_say_about_the_units() {
    let coordinator = file("systemd/fleet-coordinator.service");
    let printed = script(&[
        "systemd",
        "--coordinator",
        "http://c.example:1",
        "--label",
        ODD,
        "--data",
        "/srv/a b",
        "--join-token-file",
        "/etc/a b",
        "--devices",
        "cpu",
        "--tag",
        "a=b",
        "--leave-when-idle",
        "8h",
    ]);
    for agent in [file("systemd/fleet-agent.service"), printed] {
        let units = [("fleet-agent.service", agent.as_str()), ("fleet-coordinator.service", coordinator.as_str())];
        let Some((is_well, words)) = verify(&units) else { return };
        assert!(is_well, "{words}\n{agent}");
    }
}

#[test]
fn systemd_would_find_a_slip() {
    let broken = file("systemd/fleet-agent.service").replace("KillMode=mixed", "KillMode=mixd");
    if let Some((is_well, words)) = verify(&[("fleet-agent.service", &broken)]) {
        assert!(!is_well, "{words}");
    }
}

#[test]
fn a_unit_gives_the_agent_the_time_that_it_needs_and_no_rights_that_it_does_not() {
    for (name, seconds) in [("fleet-agent", 60), ("fleet-coordinator", 30)] {
        let text = file(&format!("systemd/{name}.service"));
        let unit = directives(&text);
        let one = |directive: &str| unit.get(directive).map(|v| v.join(" ")).unwrap_or_default();
        assert_eq!(one("KillMode"), "mixed", "{name}: workers end by themselves, behind the agent");
        assert!(one("TimeoutStopSec").parse::<u64>().is_ok_and(|s| s >= seconds), "{name}");
        assert_eq!(one("Restart"), "on-failure", "{name}: one that left by itself stays away");
        assert!(one("After").contains("network-online.target") && one("Wants").contains("network-online.target"));
        assert_eq!((one("ProtectSystem"), one("NoNewPrivileges")), ("strict".into(), "yes".into()), "{name}");
        assert!(!one("StateDirectory").is_empty() && unit.contains_key("CapabilityBoundingSet"), "{name}");
    }
    let text = file("systemd/fleet-agent.service");
    let agent = directives(&text);
    assert!(agent["DeviceAllow"].contains(&"char-nvidia* rw") && !agent.contains_key("PrivateDevices"), "{agent:?}");
    assert!(agent["ExecStartPre"][0].contains("energy_uj"), "CPUs' counters are root's otherwise");
    assert!(agent["Environment"].iter().any(|e| e.contains("FLEET_AGENT_STATE=/var/lib/netscore-fleet/")));
    assert_eq!(agent["StateDirectory"], ["netscore-fleet"]);
}

/// The only true reader of a unit is systemd, which shows what it has understood. In test mode it starts nothing; it does
/// not want to be root.
#[test]
fn systemd_reads_odd_text_as_it_was_meant() {
    let program = ["/lib/systemd/systemd", "/usr/lib/systemd/systemd"].into_iter().find(|p| Path::new(p).exists());
    let Some(program) = program else { return eprintln!("skipped: systemd is not installed here") };
    let dir = tempfile::tempdir().expect("a folder");
    let data = r#"/srv/it's "a" 100 % \ $HOME"#;
    let unit = script(&["systemd", "--coordinator", "http://c.example:1", "--label", ODD, "--data", data]);
    let unit = unit.replace("/opt/netscore-fleet/target/release/fleet-agent", "/bin/true");
    std::fs::write(dir.path().join("fleet-agent.service"), unit).expect("written");
    for target in ["basic", "sysinit", "shutdown", "paths", "sockets", "timers", "default"] {
        std::fs::write(dir.path().join(format!("{target}.target")), "[Unit]\n").expect("written");
    }
    let nobody = 65_534;
    let mut command = Command::new("setpriv");
    if chown(dir.path(), Some(nobody), None).is_ok() {
        command.args(["--reuid", &nobody.to_string(), "--clear-groups"]);
    }
    let output = command
        .arg(program)
        .args(["--user", "--test", "--unit=fleet-agent.service", "--log-target=console", "--no-pager"])
        .env_clear()
        .envs(["HOME", "SYSTEMD_UNIT_PATH", "XDG_RUNTIME_DIR"].map(|name| (name, dir.path())))
        .output();
    let Ok(output) = output else { return eprintln!("skipped: setpriv is not installed here") };
    let dump = String::from_utf8_lossy(&output.stdout);
    let variables: Vec<&str> = dump.lines().filter_map(|l| l.trim().strip_prefix("Environment: ")).collect();
    if variables.is_empty() {
        let why = String::from_utf8_lossy(&output.stderr);
        return eprintln!("skipped: systemd does not run in test mode here: {why}");
    }
    for expected in [format!("FLEET_LABEL={ODD}"), format!("FLEET_DATA={data}")] {
        assert!(variables.contains(&expected.as_str()), "{expected} is not in {variables:#?}");
    }
}
