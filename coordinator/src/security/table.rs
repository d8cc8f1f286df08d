//! Which role may call which method. What does not stand here nobody may call.

use fleet_secure::identity::Role;

/// How a request's messages come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One message, to be answered in time.
    Single,
    /// A stream of them, for as long as it does not fall silent.
    Stream,
}

/// What a method asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Roles that may call it; `None`: whoever can connect, also without a certificate.
    pub roles: Option<&'static [Role]>,
    /// How its request comes.
    pub kind: Kind,
}

const AGENTS: &[Role] = &[Role::Agent];
const OPERATORS: &[Role] = &[Role::Operator];
const READERS: &[Role] = &[Role::Operator, Role::Viewer];
const BEARERS: &[Role] = &[Role::Agent, Role::Operator, Role::Viewer];

const fn single(roles: &'static [Role]) -> Rule {
    Rule { roles: Some(roles), kind: Kind::Single }
}

const fn stream(roles: &'static [Role]) -> Rule {
    Rule { roles: Some(roles), kind: Kind::Stream }
}

/// The table.
const TABLE: &[(&str, Rule)] = &[
    ("/fleet.v1.Join/Join", Rule { roles: None, kind: Kind::Single }),
    ("/fleet.v1.Certificates/Renew", single(BEARERS)),
    ("/fleet.v1.Certificates/List", single(READERS)),
    ("/fleet.v1.Certificates/IssueToken", single(OPERATORS)),
    ("/fleet.v1.Certificates/Revoke", single(OPERATORS)),
    ("/fleet.v1.Agents/Register", single(AGENTS)),
    ("/fleet.v1.Agents/Pull", single(AGENTS)),
    ("/fleet.v1.Agents/Heartbeat", single(AGENTS)),
    ("/fleet.v1.Agents/Report", single(AGENTS)),
    ("/fleet.v1.Agents/Release", single(AGENTS)),
    ("/fleet.v1.Agents/Wasted", single(AGENTS)),
    ("/fleet.v1.Agents/Samples", stream(AGENTS)),
    ("/fleet.v1.Artifacts/Standing", single(AGENTS)),
    ("/fleet.v1.Artifacts/Put", stream(AGENTS)),
    ("/fleet.v1.Artifacts/Saved", single(AGENTS)),
    ("/fleet.v1.Artifacts/Get", single(BEARERS)),
    ("/fleet.v1.Operator/Status", single(READERS)),
    ("/fleet.v1.Operator/Watch", single(READERS)),
    ("/fleet.v1.Operator/Campaign", single(READERS)),
    ("/fleet.v1.Operator/Records", single(READERS)),
    ("/fleet.v1.Operator/SampledAttempts", single(READERS)),
    ("/fleet.v1.Operator/TrialSamples", single(READERS)),
    ("/fleet.v1.Operator/Explain", single(READERS)),
    ("/fleet.v1.Operator/Drain", single(OPERATORS)),
    ("/fleet.v1.Operator/Undrain", single(OPERATORS)),
    ("/fleet.v1.Operator/Backup", single(OPERATORS)),
    ("/fleet.v1.Operator/Submit", single(OPERATORS)),
    ("/fleet.v1.Operator/Retry", single(OPERATORS)),
    ("/fleet.v1.Operator/Cancel", single(OPERATORS)),
    ("/fleet.v1.Operator/Import", stream(OPERATORS)),
    ("/fleet.v1.Content/Manifest", single(AGENTS)),
    ("/fleet.v1.Content/Read", single(AGENTS)),
    // One message, whose answer may take as long as reading all of a data set.
    ("/fleet.v1.Sharing/Offer", stream(OPERATORS)),
    ("/fleet.v1.Sharing/Put", stream(OPERATORS)),
    ("/fleet.v1.Sharing/Shared", single(READERS)),
    ("/fleet.v1.Sharing/Unshare", single(OPERATORS)),
];

/// What the method at this path asks of its caller; `None` where there is no such method.
pub fn rule(path: &str) -> Option<Rule> {
    TABLE.iter().find(|(known, _)| *known == path).map(|(_, rule)| *rule)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every method of every service in `proto/`.
    fn methods() -> BTreeSet<String> {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/fleet/v1");
        let mut found = BTreeSet::new();
        for file in std::fs::read_dir(folder).expect("the contract") {
            let text = std::fs::read_to_string(file.expect("a file").path()).expect("text");
            let mut service = "";
            for line in text.lines() {
                let mut words = line.split([' ', '(']).filter(|w| !w.is_empty());
                match (words.next(), words.next()) {
                    (Some("service"), Some(name)) => service = name,
                    (Some("rpc"), Some(name)) => drop(found.insert(format!("/fleet.v1.{service}/{name}"))),
                    _ => {}
                }
            }
        }
        found
    }

    #[test]
    fn every_method_has_a_rule_and_every_rule_a_method() {
        let ruled: BTreeSet<String> = TABLE.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(ruled.len(), TABLE.len(), "each once");
        assert_eq!(methods(), ruled, "a new method needs a row in this file: who may call it?");
    }

    #[test]
    fn each_role_reaches_what_it_is_for() {
        let may =
            |role: Role, path: &str| rule(path).is_some_and(|r| r.roles.is_none_or(|roles| roles.contains(&role)));
        for path in methods() {
            let of = |service: &str| path.starts_with(&format!("/fleet.v1.{service}/"));
            let is_shared = of("Join") || path.ends_with("/Renew") || path == "/fleet.v1.Artifacts/Get";
            let is_agents = of("Agents") || of("Content") || (of("Artifacts") && !is_shared);
            assert_eq!(may(Role::Agent, &path), is_agents || is_shared, "{path}");
            assert_eq!(may(Role::Operator, &path), !is_agents, "{path}");
            assert!(!may(Role::Viewer, &path) || may(Role::Operator, &path), "{path}");
        }
        for path in ["Submit", "Cancel", "Retry", "Import", "Drain", "Undrain", "Backup"] {
            assert!(!may(Role::Viewer, &format!("/fleet.v1.Operator/{path}")), "{path}");
        }
        for path in ["Offer", "Put", "Unshare"] {
            assert!(!may(Role::Viewer, &format!("/fleet.v1.Sharing/{path}")), "{path}");
        }
        assert!(!may(Role::Viewer, "/fleet.v1.Certificates/IssueToken") && rule("/fleet.v1.Operator/Made").is_none());
        let open: Vec<&str> = TABLE.iter().filter(|(_, r)| r.roles.is_none()).map(|(path, _)| *path).collect();
        assert_eq!(open, ["/fleet.v1.Join/Join"]);
    }
}
