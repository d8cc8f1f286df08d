//! What computed: per hardware class the machines, their devices, and the software.

use std::collections::BTreeMap;

use fleet_common::id::HardwareClass;
use fleet_common::record::{Machine, Record, Software};
use fleet_common::units::Bytes;
use maud::{Markup, html};

use super::shell::Section;
use crate::report::numbers::{plural, significant};

pub(super) fn section(records: &[&Record]) -> Option<Section> {
    let mut classes: BTreeMap<&HardwareClass, Vec<(&Machine, &Software, u64)>> = BTreeMap::new();
    for Record { machine, training, .. } in records {
        let machines = classes.entry(&machine.hardware).or_default();
        match machines.iter_mut().find(|(m, s, _)| *m == machine && **s == training.software) {
            Some((_, _, n)) => *n += 1,
            None => machines.push((machine, &training.software, 1)),
        }
    }
    if classes.is_empty() {
        return None;
    }
    let body = html! {
        @for (class, mut machines) in classes {
            ({ machines.sort_by(|a, b| (&a.0.host, &a.0.slot).cmp(&(&b.0.host, &b.0.slot))); "" })
            h3 { (class) }
            div.scroll { table {
                thead { tr {
                    th { "machine" } th { "device" } th { "processor" } th.num { "memory" } th { "system" }
                    th { "libtorch" } th.num { "threads" } th { "agent" } th.num { "trials" }
                } }
                tbody { @for (m, s, n) in &machines { (line(m, s, *n)) } }
            } }
            @if machines.len() > 1 {
                p.muted { "Trials of this class ran in " (plural(machines.len() as u64, "setting")) "; their measurements are averaged." }
            }
        }
    };
    Some(Section { id: "machines", heading: "Devices and software", body })
}

fn line(m: &Machine, s: &Software, trials: u64) -> Markup {
    let known = |text: &str| if text.is_empty() { "unknown".to_owned() } else { text.to_owned() };
    html! {
        tr {
            td { (m.host) div.sub { (m.slot) } @if let Some(label) = &m.label { div.sub { "label " (label) } } }
            td { @match &m.gpu {
                Some(gpu) => {
                    (gpu.name) " · " (Bytes(gpu.memory_bytes))
                    div.sub {
                        "driver " (gpu.driver) " · compute " (gpu.compute_capability) " · board " (gpu.uuid_hash)
                        @if let Some(limit) = gpu.power_limit_milliwatts { " · limit " (significant(f64::from(limit) / 1e3, 3)) " W" }
                    }
                }
                None => "CPU",
            } }
            td { (m.cpu) div.sub { (plural(u64::from(m.cpus), "logical CPU")) " usable" } }
            td.num.nowrap { (Bytes(m.memory_bytes)) }
            td { (m.os) }
            td { (known(&s.libtorch)) div.sub { @match &s.cuda { Some(v) => { "CUDA " (v) }, None => "without CUDA" } } }
            td.num { (s.threads) div.sub { "+" (s.decode_threads) " decode" } }
            td { (known(&s.fleet)) div.sub { (m.agent) } }
            td.num { (trials) }
        }
    }
}
