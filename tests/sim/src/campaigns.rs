//! Campaigns that people submit, planned once for all seeds.

use std::sync::OnceLock;

use fleet_common::id::CampaignName;
use fleet_common::plan::{DatasetIdentity, Resolution, plan};
use fleet_common::spec::{self, DatasetName};
use fleet_coordinator::core::Prepared;

/// What campaigns are called.
pub(crate) const NAMES: [&str; 2] = ["day", "night"];
/// Classes of hardware that agents have.
pub(crate) const CLASSES: [&str; 2] = ["GPU A", "CPU B"];

/// A campaign's name.
pub(crate) fn name(n: usize) -> CampaignName {
    NAMES[n % NAMES.len()].parse().expect("a name")
}

/// Files of each name: smaller and larger ones, once anywhere or on each class.
pub(crate) fn all() -> &'static [Vec<Prepared>] {
    static ALL: OnceLock<Vec<Vec<Prepared>>> = OnceLock::new();
    ALL.get_or_init(|| {
        let hardware = ["\"any\"", "\"any\"", "[\"GPU A\", \"CPU B\"]", "\"each\""];
        let seeds = ["[0]", "[0, 1, 2]"];
        let file = |name: &str, seeds: &str, hardware: &str| {
            let toml = format!(
                "name = \"{name}\"\nseeds = {seeds}\nhardware = {hardware}\n[matrix]\nmethod = [\"full\", \"lora\"]\n\
                 backbone = \"vit_micro\"\ndataset = \"textures\"\n[train]\nsteps = 10\n"
            );
            let campaign = spec::Campaign::parse("simulated.toml", &toml).expect("a campaign");
            let identity = DatasetIdentity { fingerprint: "0".repeat(64), classes: 8, train: 10, test: 10 };
            let datasets = [(DatasetName::Textures("textures".into()), Ok(identity))].into();
            let plan = plan(&campaign, &Resolution { datasets, ..Resolution::default() });
            Prepared::new(campaign, toml, plan)
        };
        NAMES
            .iter()
            .map(|name| hardware.iter().flat_map(|h| seeds.iter().map(|s| file(name, s, h))).collect())
            .collect()
    })
}
