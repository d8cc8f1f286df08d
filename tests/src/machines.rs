//! Network namespaces as machines of their own, with cables to one switch.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::program;

/// The name under which every machine knows the coordinator's.
pub const COORDINATOR: &str = "coordinator.fleet";

/// Machines 0, 1, 2, … with the addresses 10.77.0.1, .2, .3, …
pub struct Machines {
    switch: String,
    names: Vec<String>,
}

impl Machines {
    /// So many, and their cables; `None` where this user may not, or `ip` is not there.
    pub fn connect(count: usize) -> Option<Self> {
        let id = std::process::id();
        let switch = format!("fleet-switch-{id}");
        let names = (0..count).map(|i| format!("fleet-{i}-{id}")).collect();
        // Made first, so that what half succeeded is taken down too.
        let machines = Self { switch: switch.clone(), names };
        let mut commands = vec![
            format!("netns add {switch}"),
            format!("-n {switch} link add br0 type bridge"),
            format!("-n {switch} link set br0 up"),
        ];
        for (i, name) in machines.names.iter().enumerate() {
            let (port, cable) = (machines.port(i), format!("fm{i}-{id}"));
            commands.extend([
                format!("netns add {name}"),
                format!("link add {cable} type veth peer name {port}"),
                format!("link set {cable} netns {name}"),
                format!("link set {port} netns {switch}"),
                format!("-n {switch} link set {port} master br0"),
                format!("-n {switch} link set {port} up"),
                format!("-n {name} addr add {}/24 dev {cable}", Self::address(i)),
                format!("-n {name} link set lo up"),
                format!("-n {name} link set {cable} up"),
            ]);
        }
        commands.iter().all(|c| ip(c)).then_some(machines)
    }

    /// The address of a machine.
    pub fn address(machine: usize) -> String {
        format!("10.77.0.{}", machine + 1)
    }

    /// A program of ours on a machine.
    pub fn on(&self, machine: usize, name: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.names[machine]]).arg(program(name));
        command
    }

    /// Pulls a machine's cable out of the switch, or puts it back.
    pub fn plug(&self, machine: usize, is_in: bool) {
        let state = if is_in { "up" } else { "down" };
        assert!(ip(&format!("-n {} link set {} {state}", self.switch, self.port(machine))));
    }

    /// Has all machines know the machine `at` as [`COORDINATOR`].
    ///
    /// # Errors
    /// The files that `ip netns exec` shows as /etc/hosts cannot be written.
    pub fn name_coordinator(&self, at: usize) -> std::io::Result<()> {
        let hosts = format!("127.0.0.1 localhost\n{} {COORDINATOR}\n", Self::address(at));
        for name in &self.names {
            std::fs::create_dir_all(folder(name))?;
            std::fs::write(folder(name).join("hosts"), &hosts)?;
        }
        Ok(())
    }

    /// The switch's end of a cable; interfaces have short names.
    fn port(&self, machine: usize) -> String {
        format!("fs{machine}-{}", std::process::id())
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for name in self.names.iter().chain([&self.switch]) {
            ip(&format!("netns del {name}"));
            let _ = std::fs::remove_dir_all(folder(name));
        }
    }
}

/// Where `ip netns exec` finds files that it puts over those of /etc.
fn folder(name: &str) -> PathBuf {
    PathBuf::from("/etc/netns").join(name)
}

fn ip(arguments: &str) -> bool {
    let status = Command::new("ip").args(arguments.split(' ')).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
