//! A campaign of one trial that takes a while, and what its coordinator says of it.

use std::path::Path;

use serde_json::Value;

use crate::{Fleet, wait_until};

/// A campaign file of one trial of `steps` steps; its path.
pub fn long(fleet: &Fleet, name: &str, steps: u32) -> String {
    let file = fleet.campaign(name, 1, "", "");
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text
        .replace("steps = 4", &format!("steps = {steps}"))
        .replace("[\"full\", \"lora\", \"bitfit\"]", "\"full\"")
        .replace("[\"none\", \"static\"]", "\"none\"");
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

/// A campaign on a coordinator.
pub struct Campaign<'a> {
    /// Whose.
    pub fleet: &'a Fleet,
    /// The coordinator.
    pub url: String,
    /// Its name.
    pub name: &'static str,
}

impl Campaign<'_> {
    /// Where it stands.
    pub fn status(&self) -> Value {
        let out = self.fleet.fleet(&["status", self.name, "--coordinator", &self.url, "--json"]).ended_with(0);
        out.json()["campaigns"][0].clone()
    }

    /// Waits until its trial trains and has done `step` steps.
    pub fn wait_for_step(&self, step: u64) {
        wait_until("the trial to get that far", || {
            let running = self.status()["running"][0].clone();
            running["phase"] == "train" && running["done"].as_u64() >= Some(step)
        });
    }

    /// The report's page once the trial is done, and its group.
    pub fn finish(&self) -> (String, Value) {
        wait_until("the trial to end", || self.status()["finished"]["completed"] == 1);
        let page = self.fleet.path().join("page.html");
        let page_arg = page.to_str().unwrap();
        let report = self.fleet.fleet(&["report", self.name, "--coordinator", &self.url, "--json", "--html", page_arg]);
        let group = report.ended_with(0).json()["comparison"]["groups"][0].clone();
        (std::fs::read_to_string(page).unwrap(), group)
    }

    /// The stored samples of each attempt, as (number, monotonic nanoseconds, raw value), in the order of the file.
    pub fn samples(&self) -> Vec<(u32, Vec<Stored>)> {
        let out = self.fleet.fleet(&["samples", self.name, "--coordinator", &self.url, "--csv", "-"]).ended_with(0);
        let mut lines = out.stdout.lines();
        let head: Vec<&str> = lines.next().unwrap().split(',').collect();
        let column = |name: &str| head.iter().position(|h| *h == name).unwrap();
        let [attempt, number, at, raw] = ["attempt", "number", "monotonic_ns", "raw"].map(column);
        let mut attempts: Vec<(u32, Vec<Stored>)> = Vec::new();
        for line in lines {
            let cells: Vec<&str> = line.split(',').collect();
            let of = cells[attempt].parse().unwrap();
            let stored = (cells[number].parse().unwrap(), cells[at].parse().unwrap(), cells[raw].parse().unwrap());
            match attempts.last_mut() {
                Some((same, samples)) if *same == of => samples.push(stored),
                _ => attempts.push((of, vec![stored])),
            }
        }
        attempts
    }
}

/// Number, monotonic nanoseconds, raw value.
pub type Stored = (u64, u64, i64);

/// What an agent has spooled, as the coordinator would store it.
pub fn spooled(folder: &Path) -> Vec<Stored> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let bytes = std::fs::read(entry.path()).unwrap();
        let mut rest = &bytes[..];
        while let Some((head, more)) = rest.split_first_chunk::<8>() {
            let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
            let Some(message) = more.get(..length) else { break };
            let batch: fleet_common::wire::v1::SampleBatch = prost::Message::decode(message).unwrap();
            let samples = batch.at_nanos.iter().zip(&batch.value).enumerate();
            found.extend(samples.map(|(i, (at, value))| (batch.first_number + i as u64, *at, *value)));
            rest = &more[length..];
        }
    }
    found
}
