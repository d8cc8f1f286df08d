//! The printed Slurm array, run by a stand-in for sbatch: real agents, a real coordinator, real trials.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use fleet_tests::{Campaign, Coordinator, Fleet, Output, finish, long, program, wait_until};

fn sbatch() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("stand_ins/sbatch")
}

/// The script for a coordinator, for machines without a GPU.
fn script(fleet: &Fleet, url: &str, more: &[&str]) -> String {
    let (agent, data) = (program("fleet-agent"), fleet.data());
    let (agent, data) = (agent.to_str().expect("text"), data.to_str().expect("text"));
    let common = ["agents", "script", "slurm", "--coordinator", url, "--gpus", "0", "--program", agent, "--data", data];
    fleet.fleet(&[&common[..], more].concat()).ended_with(0).stdout
}

/// sbatch with a file; its tasks have the fleet's folder as their own.
fn submit(fleet: &Fleet, script: &str) -> Command {
    let file = fleet.file("agents.sbatch", script);
    let mut command = Command::new(sbatch());
    fleet.here(&mut command).env("SLURM_TMPDIR", fleet.path().join("scratch")).env_remove("FLEET_DATA").arg(file);
    std::fs::create_dir_all(fleet.path().join("scratch")).expect("a folder");
    command
}

/// What the tasks wrote.
fn logs(fleet: &Fleet) -> String {
    let files = std::fs::read_dir(fleet.path()).expect("a folder").flatten().map(|e| e.path());
    let logs = files.filter(|f| f.file_name().is_some_and(|n| n.to_string_lossy().starts_with("netscore-fleet-")));
    logs.map(|f| std::fs::read_to_string(f).unwrap_or_default()).collect()
}

struct Array(Child);

impl Array {
    fn terminate(mut self) -> Option<i32> {
        Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status().expect("kill");
        self.0.wait().expect("ends").code()
    }
}

impl Drop for Array {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_array_trains_a_campaign_and_leaves_nothing_behind() {
    let fleet = Fleet::new();
    let coordinator = Coordinator::start(&fleet, "127.0.0.1:0", &[]);
    let file = fleet.campaign("array", 1, "", "");
    let submitted = ["submit", file.to_str().expect("text"), "--coordinator", &coordinator.url];
    fleet.fleet(&submitted).ended_with(0);
    let script = script(&fleet, &coordinator.url, &["--agents", "2", "--leave-when-idle", "3s"]);
    let out = finish(&mut submit(&fleet, &script));
    assert_eq!(out.code, 0, "{}\n{}", out.stderr, logs(&fleet));
    assert!(out.stdout.starts_with("Submitted batch job "), "{}", out.stdout);
    let campaign = Campaign { fleet: &fleet, url: coordinator.url.clone(), name: "array" };
    assert_eq!(campaign.status()["finished"]["completed"], 6, "{}", logs(&fleet));
    assert_eq!(logs(&fleet).matches("no work for 3s: leaving").count(), 2, "both left by themselves: {}", logs(&fleet));
    let left = std::fs::read_dir(fleet.path().join("scratch")).expect("a folder").count();
    assert_eq!(left, 0, "the node's disk is as it was");
    fleet.no_worker_is_left();
}

#[test]
fn the_end_of_its_time_interrupts_a_trial_and_the_next_array_goes_on_with_it() {
    const STEPS: u32 = 400;
    let fleet = Fleet::new();
    let coordinator = Coordinator::start(&fleet, "127.0.0.1:0", &[]);
    let campaign = Campaign { fleet: &fleet, url: coordinator.url.clone(), name: "limited" };
    let file = long(&fleet, "limited", STEPS);
    fleet.fleet(&["submit", &file, "--coordinator", &coordinator.url]).ended_with(0);
    let states = fleet.path().join("states");
    let states = states.to_str().expect("text");
    let script = script(&fleet, &coordinator.url, &["--agents", "1", "--leave-when-idle", "3s", "--state", states]);
    let array = Array(submit(&fleet, &script).stdout(Stdio::null()).spawn().expect("starts"));
    campaign.wait_for_step(30);
    assert_eq!(array.terminate(), Some(0), "{}", logs(&fleet));
    fleet.no_worker_is_left();
    wait_until("the lease to be given back", || campaign.status()["running"].as_array().is_some_and(Vec::is_empty));
    let out = finish(&mut submit(&fleet, &script));
    assert_eq!(out.code, 0, "{}\n{}", out.stderr, logs(&fleet));
    let (page, _) = campaign.finish();
    assert!(page.contains("interrupted: "), "the trial went on from its state");
}

#[test]
fn the_stand_in_refuses_what_slurm_would() {
    let fleet = Fleet::new();
    let ask = |head: &str| -> Output {
        let file = fleet.file("wrong.sbatch", &format!("#!/bin/bash\n#SBATCH --time=0-01:00:00\n{head}\ntrue\n"));
        finish(fleet.here(Command::new(sbatch()).arg(file)))
    };
    assert_eq!(ask("#SBATCH --array=0-1").code, 0);
    for (wrong, why) in [
        ("#SBATCH --gpu=1", "unrecognized option '--gpu'"),
        ("#SBATCH --array=2", "Invalid --array"),
        ("#SBATCH --gres=gpus:1", "Invalid --gres"),
        ("true\n#SBATCH --nodes=1", "stands behind the first command"),
        ("#SBATCH --partition=a b", "cannot read option"),
    ] {
        let out = ask(wrong);
        assert!(out.code == 1 && out.stderr.contains(why), "{wrong}: {}", out.stderr);
    }
}
