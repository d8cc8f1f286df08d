//! Files that start agents elsewhere. The templates are the examples of `deploy/`, so that they are written once.

mod format;
mod options;
mod template;
#[cfg(test)]
mod tests;
mod words;

use clap::Subcommand;

use self::format::Format;
use self::options::{Compose, Kubernetes, Slurm, Systemd};
use self::template::{Fields, fill};
use crate::cli::Failure;

/// What the help shows.
pub(super) const EXAMPLES: &str = "\
Examples:
  fleet agents script systemd --coordinator http://10.0.0.5:7070 > fleet-agent.service
  fleet agents script slurm --coordinator http://10.0.0.5:7070 --partition gpu --agents 8 --time 4h | sbatch
  fleet agents script k8s --coordinator http://10.0.0.5:7070 --gpus 1 | kubectl apply -f -
  fleet agents script compose --coordinator http://10.0.0.5:7070 --gpus 1 > agent.compose.yaml

What is printed holds no secret: a join token stays in its file, which is named.";

macro_rules! deploy {
    ($file:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/", $file))
    };
}

/// `fleet agents script`.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Script {
    /// A systemd unit, for a machine that is there to stay.
    #[command(after_help = "Example: fleet agents script systemd --coordinator http://10.0.0.5:7070 \
        | sudo tee /etc/systemd/system/fleet-agent.service")]
    Systemd(Systemd),
    /// A Kubernetes DaemonSet: an agent on each node with a GPU; with --agents a Job, whose agents leave when there is
    /// no more work.
    #[command(
        name = "k8s",
        visible_alias = "kubernetes",
        after_help = "Example: fleet agents script k8s --coordinator http://netscore-fleet-coordinator:7070 \
        --agents 4 --time 8h | kubectl create -f -"
    )]
    Kubernetes(Kubernetes),
    /// A Slurm array whose tasks are agents that leave when there is no more work.
    #[command(after_help = "Example: fleet agents script slurm --coordinator http://login:7070 --partition gpu \
        --agents 8 --time 4h --data /scratch/me/data --weights /scratch/me/weights > agents.sbatch")]
    Slurm(Slurm),
    /// A compose file, for a machine with a container engine.
    #[command(after_help = "Example: fleet agents script compose --coordinator http://10.0.0.5:7070 --gpus 1 \
        > agent.compose.yaml")]
    Compose(Compose),
}

impl Script {
    pub(super) fn run(self) -> Result<(), Failure> {
        let common = self.common();
        if !matches!(self, Self::Systemd(_)) && common.coordinator.is_loopback() {
            eprintln!(
                "warning: {} is this machine only; agents elsewhere need an address that they can reach",
                common.coordinator.as_str()
            );
        }
        say!("{}", self.text().trim_end());
        Ok(())
    }

    fn common(&self) -> &options::Common {
        match self {
            Self::Systemd(Systemd { common, .. })
            | Self::Kubernetes(Kubernetes { common, .. })
            | Self::Slurm(Slurm { common, .. })
            | Self::Compose(Compose { common, .. }) => common,
        }
    }

    /// The file.
    fn text(&self) -> String {
        let (template, format) = self.template();
        fill(template, format, &self.fields())
    }

    fn template(&self) -> (&'static str, Format) {
        match self {
            Self::Systemd(_) => (deploy!("systemd/fleet-agent.service"), Format::Systemd),
            Self::Kubernetes(Kubernetes { agents: None, .. }) => {
                (deploy!("kubernetes/agents.yaml"), Format::Kubernetes)
            }
            Self::Kubernetes(_) => (deploy!("kubernetes/agents-job.yaml"), Format::Kubernetes),
            Self::Slurm(_) => (deploy!("slurm/agents.sbatch"), Format::Shell),
            Self::Compose(_) => (deploy!("container/agent.compose.yaml"), Format::Compose),
        }
    }

    fn fields(&self) -> Fields {
        let mut fields = Fields::default();
        self.common().fill(&mut fields);
        match self {
            Self::Systemd(systemd) => systemd.fill(&mut fields),
            Self::Kubernetes(kubernetes) => kubernetes.fill(&mut fields),
            Self::Slurm(slurm) => slurm.fill(&mut fields),
            Self::Compose(compose) => compose.fill(&mut fields),
        }
        fields
    }
}
