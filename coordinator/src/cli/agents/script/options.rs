//! What can be chosen for each kind of file.

use std::fmt::Display;

use clap::Args;
use fleet_common::units::Bytes;

use super::template::Fields;
use super::words::{Address, Device, Image, Namespace, Place, SlurmName, Tag, Time, Words};

/// Where installed programs are.
const PROGRAM: &str = "/opt/netscore-fleet/target/release/fleet-agent";
const IMAGE: &str = concat!("netscore-fleet-agent:", env!("CARGO_PKG_VERSION"));

/// What every agent is told.
#[derive(Debug, Args)]
pub(in crate::cli) struct Common {
    /// Address of the coordinator, as the agents reach it
    #[arg(long, env = "FLEET_COORDINATOR", value_name = "URL")]
    pub(super) coordinator: Address,
    /// Folder with data sets, on the agents' machines
    #[arg(long, value_name = "DIR", default_value = "/srv/netscore-fleet/data")]
    data: Place,
    /// Folder with initial weights, on the agents' machines
    #[arg(long, value_name = "DIR", default_value = "/srv/netscore-fleet/weights")]
    weights: Place,
    /// Devices to offer, such as cpu or cuda:0 [default: all GPUs, or the CPU where there is none]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    devices: Vec<Device>,
    /// Sets these machines apart from others with the same device: a part of their hardware class
    #[arg(long, value_name = "TEXT")]
    label: Option<Words>,
    /// Tags that campaigns can select by; may be given again
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    tags: Vec<Tag>,
}

impl Common {
    pub(super) fn fill(&self, fields: &mut Fields) {
        fields.text("coordinator", self.coordinator.as_str());
        fields.text("data", &self.data);
        fields.text("weights", &self.weights);
        fields.some("devices", list(&self.devices));
        fields.some("label", self.label.as_ref());
        fields.some("tags", list(&self.tags));
    }
}

/// Joined by commas, if there are any.
fn list(values: &[impl Display]) -> Option<String> {
    (!values.is_empty()).then(|| values.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
}

/// How an agent joins.
#[derive(Debug, Args)]
struct Join {
    /// File, on the agents' machines, with a token of `fleet join-token`; needed where the coordinator's address is
    /// https:// and the agent has not joined yet
    #[arg(long, value_name = "FILE")]
    join_token_file: Option<Place>,
}

/// A systemd unit.
#[derive(Debug, Args)]
pub(in crate::cli) struct Systemd {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(flatten)]
    join: Join,
    /// The agent's program
    #[arg(long, value_name = "FILE", default_value = PROGRAM)]
    program: Place,
    /// End by itself when there was no work for so long [default: stay]
    #[arg(long, value_name = "TIME")]
    leave_when_idle: Option<Time>,
}

impl Systemd {
    pub(super) fn fill(&self, fields: &mut Fields) {
        fields.text("program", &self.program);
        fields.some("join-token", self.join.join_token_file.as_ref());
        fields.some("leave-when-idle", self.leave_when_idle.as_ref());
    }
}

/// Kubernetes objects.
#[derive(Debug, Args)]
pub(in crate::cli) struct Kubernetes {
    #[command(flatten)]
    pub(super) common: Common,
    /// A Job of so many agents [default: a DaemonSet, an agent on each node with a GPU]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) agents: Option<u32>,
    /// The longest that the Job may take [default: as long as there is work]
    #[arg(long, value_name = "TIME", requires = "agents")]
    time: Option<Time>,
    /// An agent of the Job leaves when there was no work for so long [default: 10m]
    #[arg(long, value_name = "TIME", requires = "agents")]
    leave_when_idle: Option<Time>,
    /// GPUs for each agent
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    gpus: u32,
    /// CPUs for each agent
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    cpus: u32,
    /// Memory for each agent
    #[arg(long, value_name = "SIZE", default_value = "16GiB")]
    memory: Bytes,
    /// The agents' image
    #[arg(long, value_name = "NAME", default_value_t = image("cuda"))]
    image: Image,
    /// Namespace of all objects; the Service of the coordinator is looked for there
    #[arg(long, value_name = "NAME", default_value = "netscore-fleet")]
    namespace: Namespace,
}

impl Kubernetes {
    pub(super) fn fill(&self, fields: &mut Fields) {
        if let Some(agents) = self.agents {
            fields.number("agents", agents);
        }
        if let Some(time) = &self.time {
            fields.number("time", time.seconds());
        }
        fields.some("leave-when-idle", self.leave_when_idle.as_ref());
        fields.number("gpus", self.gpus);
        fields.number("cpus", self.cpus);
        fields.text("memory", format!("{}Mi", mebibytes(self.memory)));
        fields.text("image", &self.image);
        fields.text("namespace", &self.namespace);
    }
}

/// A Slurm array.
#[derive(Debug, Args)]
pub(in crate::cli) struct Slurm {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(flatten)]
    join: Join,
    /// The agent's program, on the compute nodes
    #[arg(long, value_name = "FILE", default_value = PROGRAM)]
    program: Place,
    /// Tasks of the array: so many agents
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    agents: u32,
    /// Agents at work at a time [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    at_once: Option<u32>,
    /// Partition [default: the cluster's]
    #[arg(long, value_name = "NAME")]
    partition: Option<SlurmName>,
    /// Account that is charged [default: yours]
    #[arg(long, value_name = "NAME")]
    account: Option<SlurmName>,
    /// Time limit of each task
    #[arg(long, value_name = "TIME", default_value = "4h")]
    time: Time,
    /// GPUs for each agent; 0 for agents that train on the CPUs of a node of their own
    #[arg(long, value_name = "N", default_value_t = 1)]
    gpus: u32,
    /// CPUs for each agent
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    cpus: u32,
    /// Memory for each agent
    #[arg(long, value_name = "SIZE", default_value = "32GiB")]
    memory: Bytes,
    /// Folder that outlives the job, for states that the next array goes on from; two arrays at a time need two
    /// [default: on the node's own disk, for the job only]
    #[arg(long, value_name = "DIR")]
    state: Option<Place>,
    /// An agent leaves when there was no work for so long
    #[arg(long, value_name = "TIME", default_value = "10m")]
    leave_when_idle: Time,
}

impl Slurm {
    pub(super) fn fill(&self, fields: &mut Fields) {
        let at_once = self.at_once.map_or(String::new(), |n| format!("%{n}"));
        fields.text("program", &self.program);
        fields.text("array", format!("0-{}{at_once}", self.agents - 1));
        fields.some("partition", self.partition.as_ref());
        fields.some("account", self.account.as_ref());
        fields.text("time", self.time.slurm());
        if self.gpus > 0 {
            fields.text("gpus", format!("gpu:{}", self.gpus));
        }
        fields.number("cpus", self.cpus);
        fields.text("memory", format!("{}M", mebibytes(self.memory)));
        fields.some("state", self.state.as_ref());
        fields.text("leave-when-idle", &self.leave_when_idle);
        fields.some("join-token", self.join.join_token_file.as_ref());
    }
}

/// A compose file.
#[derive(Debug, Args)]
pub(in crate::cli) struct Compose {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(flatten)]
    join: Join,
    /// GPUs for the agent; 0 for an agent that trains on the CPU
    #[arg(long, value_name = "N", default_value_t = 0)]
    gpus: u32,
    /// The agent's image [default: netscore-fleet-agent of this version, for GPUs or CPUs]
    #[arg(long, value_name = "NAME")]
    image: Option<Image>,
    /// End by itself when there was no work for so long [default: stay]
    #[arg(long, value_name = "TIME")]
    leave_when_idle: Option<Time>,
}

impl Compose {
    pub(super) fn fill(&self, fields: &mut Fields) {
        if self.gpus > 0 {
            fields.number("gpus", self.gpus);
        }
        let kind = if self.gpus > 0 { "cuda" } else { "cpu" };
        fields.text("image", self.image.clone().unwrap_or_else(|| image(kind)));
        fields.some("join-token", self.join.join_token_file.as_ref());
        fields.some("leave-when-idle", self.leave_when_idle.as_ref());
    }
}

fn image(kind: &str) -> Image {
    format!("{IMAGE}-{kind}").parse().expect("our own image has a name")
}

/// Rounded up, so that nothing becomes nothing.
fn mebibytes(bytes: Bytes) -> u64 {
    bytes.0.div_ceil(1 << 20)
}
