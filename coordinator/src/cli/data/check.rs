//! `fleet data check`.

use std::path::PathBuf;

use clap::Args;

use super::set::Public;
use crate::cli::Failure;

/// `fleet data check`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Check {
    /// Which
    #[arg(value_name = "DATA SET")]
    name: Public,
    /// Folder of the data sets
    #[arg(long, env = "FLEET_DATA", value_name = "DIR", default_value = "data")]
    data: PathBuf,
}

impl Check {
    pub(super) fn run(self) -> Result<(), Failure> {
        let set = self.name.set();
        set.check(&self.data).map_err(Failure::usage)?.say(&set);
        Ok(())
    }
}
