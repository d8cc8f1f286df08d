//! Certificates of a fleet, in a state folder or through a running coordinator.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use comfy_table::{LineStyle, Table, TableStyle};
use fleet_common::id::PeerName;
use fleet_common::wire::v1;
use fleet_secure::authority::AuthorityError;
use fleet_secure::identity::Role;
use fleet_secure::{join, unix_now};
use serde::Serialize;
use tonic::transport::Channel;

use super::join::own_name;
use super::secured::duration;
use super::{Failure, Json, client as connection, print_json};
use crate::security::{Office, OfficeError, address_hint};
use crate::service::rpc::certificates_client::CertificatesClient;

/// How long certificates last that are made here.
const VALIDITY: u64 = 30 * 24 * 3600;

/// `fleet certs`.
#[derive(Debug, Subcommand)]
pub(super) enum Certs {
    /// Makes the authority of a fleet, the coordinator's certificate, and yours.
    #[command(after_help = "Example: fleet certs init --name coordinator.lan --state /var/lib/fleet\n\
        Then: fleet serve --listen 0.0.0.0:7070, and a token for each machine: fleet join-token")]
    Init(Init),
    /// Makes a certificate with its key for somebody who is handed the file. A token needs no file to travel: fleet
    /// join-token --role viewer
    #[command(after_help = "Example: fleet certs issue --role viewer --name ann --out ann.pem")]
    Issue(Issue),
    /// Lists certificates that have not ended, and tokens that still open something.
    #[command(after_help = "Example: fleet certs list")]
    List(List),
    /// Takes back the certificates of a name, one by its serial number, or a token by its id. Connections that use them
    /// end within a second.
    #[command(after_help = "Example: fleet certs revoke box-7-1f2e3d4c")]
    Revoke(Revoke),
    /// Renews the coordinator's own certificate (in its state folder), or yours (with --coordinator). Both renew
    /// themselves after two thirds of their time; this is for new names.
    #[command(after_help = "Example: fleet certs renew --name fleet.example.org --state /var/lib/fleet")]
    Renew(Renew),
}

/// Where certificates are looked after.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// State folder of the coordinator, on its machine
    #[arg(long, value_name = "DIR", default_value = "fleet-state/coordinator")]
    state: PathBuf,
    /// Address of a running coordinator instead, with your certificate as an operator [default where the folder has no
    /// certificates: the coordinator that you joined]
    #[arg(long, value_name = "URL")]
    coordinator: Option<String>,
}

/// What that is.
pub(super) enum Found {
    Folder(PathBuf),
    Remote(String),
}

impl Place {
    pub(super) fn find(&self) -> Result<Found, Failure> {
        if let Some(coordinator) = &self.coordinator {
            return Ok(Found::Remote(coordinator.clone()));
        }
        if Office::is_in(&self.state) {
            return Ok(Found::Folder(self.state.clone()));
        }
        let remote = std::env::var("FLEET_COORDINATOR").ok().filter(|c| !c.is_empty());
        let remote = remote.unwrap_or_else(connection::usual_coordinator);
        if fleet_secure::client::is_encrypted(&remote) {
            return Ok(Found::Remote(remote));
        }
        Err(Failure::usage(format!(
            "{} has no certificates, and no coordinator with encryption is known here; make certificates with `fleet certs \
             init --state DIR`, name the coordinator's state folder with --state, or its address with --coordinator \
             https://HOST:PORT",
            self.state.display()
        )))
    }
}

/// The office of a state folder.
pub(super) fn office(state: &Path) -> Result<Office, Failure> {
    Ok(Office::open(state, VALIDITY)?)
}

/// The service of a running coordinator.
pub(super) async fn client(coordinator: &str) -> Result<CertificatesClient<Channel>, Failure> {
    Ok(CertificatesClient::new(connection::channel(coordinator).await?))
}

/// `fleet certs init`.
#[derive(Debug, Args)]
pub(super) struct Init {
    /// A name or address under which machines reach the coordinator; may be given several times. This machine's own are
    /// always among them
    #[arg(long, value_name = "HOST")]
    name: Vec<String>,
    /// Address to put into tokens [default: https://, the first --name or this machine's address, and port 7070]
    #[arg(long, value_name = "URL")]
    address: Option<String>,
    /// State folder of the coordinator
    #[arg(long, value_name = "DIR", default_value = "fleet-state/coordinator")]
    state: PathBuf,
    /// File for your own certificate [default: netscore-fleet/identity.pem in the user's configuration folder]
    #[arg(long, env = "FLEET_IDENTITY", value_name = "FILE")]
    identity: Option<PathBuf>,
}

fn check_host(host: &str) -> Result<(), Failure> {
    let plain =
        !host.is_empty() && host.len() <= 253 && host.chars().all(|c| c.is_ascii_alphanumeric() || "-.:".contains(c));
    let is_address = host.parse::<std::net::IpAddr>().is_ok();
    if plain && (is_address || !host.contains(':')) {
        return Ok(());
    }
    Err(Failure::usage(format!("--name: expected a host name or an IP address, without a port, found \"{host}\"")))
}

/// A host as part of an address.
fn in_url(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

impl Init {
    fn run(self) -> Result<(), Failure> {
        self.name.iter().try_for_each(|host| check_host(host))?;
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let (mut names, best) = address_hint(&host);
        let best = self.name.first().cloned().unwrap_or(best);
        names.extend(self.name);
        names.sort();
        names.dedup();
        let address = self.address.unwrap_or_else(|| format!("https://{}:7070", in_url(&best)));
        if !fleet_secure::client::is_encrypted(&address) || fleet_secure::client::endpoint(&address).is_err() {
            return Err(Failure::usage(format!("--address: expected https://HOST:PORT, found \"{address}\"")));
        }
        let now = unix_now();
        let mut office = Office::create(&self.state, &names, &address, VALIDITY, now)?;
        let dir = Office::dir(&self.state);
        let identity = self.identity.unwrap_or_else(connection::identity);
        eprintln!("Made in {}:", dir.display());
        eprintln!(
            "  authority.pem, authority.key  signs this fleet's certificates; whoever has the key can make any: back it up, show nobody"
        );
        eprintln!(
            "  coordinator.pem               the coordinator's certificate, for {}; renews itself",
            names.join(", ")
        );
        if identity.exists() {
            eprintln!(
                "You have a certificate already ({}), which is kept. For one of this fleet: fleet join-token --role operator \
                 --state {}, and fleet join TOKEN --identity FILE",
                identity.display(),
                self.state.display()
            );
        } else {
            let (credentials, who) = office.issue(Role::Operator, &own_name(), now)?;
            // From here the coordinator is near, whatever others call it.
            credentials.for_coordinator(&near(&address)).save(&identity).map_err(|e| Failure::failed(e.to_string()))?;
            eprintln!("  {}  your certificate as {who}, for {}", identity.display(), duration(VALIDITY));
        }
        let state = self.state.display();
        eprintln!("Next:\n  fleet serve --state {state} --listen 0.0.0.0:7070");
        eprintln!("  fleet join-token --state {state}        # a token per machine; there: fleet-agent join TOKEN");
        Ok(())
    }
}

/// The address on this machine of what others reach under `address`.
fn near(address: &str) -> String {
    let port = address.rsplit_once(':').and_then(|(_, port)| port.trim_end_matches('/').parse::<u16>().ok());
    format!("https://127.0.0.1:{}", port.unwrap_or(7070))
}

/// `fleet certs issue`.
#[derive(Debug, Args)]
pub(super) struct Issue {
    /// operator (may do everything), viewer (may look), or agent (a machine)
    #[arg(long)]
    role: Role,
    /// Whom it is for: letters, digits, '-', '_', '.'; for a machine, its agent id
    #[arg(long)]
    name: PeerName,
    /// File to write; it holds the key, so that only its owner may read it
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// State folder of the coordinator
    #[arg(long, value_name = "DIR", default_value = "fleet-state/coordinator")]
    state: PathBuf,
}

impl Issue {
    fn run(self) -> Result<(), Failure> {
        if self.out.exists() {
            return Err(Failure::usage(format!("{} is there already; name another file", self.out.display())));
        }
        let mut office = office(&self.state)?;
        let (mut credentials, who) = office.issue(self.role, &self.name, unix_now())?;
        if let Some(address) = office.address() {
            credentials = credentials.for_coordinator(&address);
        }
        credentials.save(&self.out).map_err(|e| Failure::failed(e.to_string()))?;
        let place = match self.role {
            Role::Agent => "STATE/identity.pem of its agent",
            _ => "~/.config/netscore-fleet/identity.pem (or FLEET_IDENTITY)",
        };
        eprintln!(
            "{}: {who}, for {}. It holds the key: hand it over on a safe way, to {place}, and remove it here.",
            self.out.display(),
            duration(VALIDITY)
        );
        Ok(())
    }
}

/// `fleet certs list`.
#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    json: Json,
}

/// `fleet.certificates/1`.
#[derive(Serialize)]
struct Listed {
    schema: &'static str,
    certificates: Vec<Row>,
    tokens: Vec<TokenRow>,
}

#[derive(Serialize)]
struct Row {
    name: String,
    role: String,
    serial: String,
    not_before_unix: u64,
    not_after_unix: u64,
    revoked: bool,
    /// Null where no coordinator was asked.
    connections: Option<u32>,
}

#[derive(Serialize)]
struct TokenRow {
    id: String,
    role: String,
    uses_left: u32,
    not_after_unix: u64,
}

impl List {
    async fn run(self) -> Result<(), Failure> {
        let (certificates, tokens): (Vec<Row>, Vec<TokenRow>) = match self.place.find()? {
            Found::Folder(state) => {
                let (office, now) = (office(&state)?, unix_now());
                let certificates = office.certificates(now).into_iter().map(|c| Row {
                    name: c.issue.name.into(),
                    role: c.issue.role.name().to_owned(),
                    serial: c.issue.serial,
                    not_before_unix: c.issue.not_before,
                    not_after_unix: c.issue.not_after,
                    revoked: c.revoked,
                    connections: None,
                });
                let tokens = office.tokens(now).into_iter().map(|(token, uses_left)| TokenRow {
                    id: token.id,
                    role: token.role.name().to_owned(),
                    uses_left,
                    not_after_unix: token.not_after,
                });
                (certificates.collect(), tokens.collect())
            }
            Found::Remote(coordinator) => {
                let listed = client(&coordinator).await?.list(v1::ListRequest {}).await?.into_inner();
                let certificates = listed.certificates.into_iter().map(|c| Row {
                    name: c.name,
                    role: c.role,
                    serial: c.serial,
                    not_before_unix: c.not_before_unix,
                    not_after_unix: c.not_after_unix,
                    revoked: c.revoked,
                    connections: Some(c.connections),
                });
                let tokens = listed.tokens.into_iter().map(|t| TokenRow {
                    id: t.id,
                    role: t.role,
                    uses_left: t.uses_left,
                    not_after_unix: t.not_after_unix,
                });
                (certificates.collect(), tokens.collect())
            }
        };
        if self.json.json {
            print_json(&Listed { schema: "fleet.certificates/1", certificates, tokens });
            return Ok(());
        }
        let now = unix_now();
        let left = |until: u64| duration(until.saturating_sub(now));
        let mut table = plain_table(["name", "role", "serial number", "ends in", "connections"]);
        for c in certificates {
            let ends = if c.revoked { "revoked".to_owned() } else { left(c.not_after_unix) };
            let connections = c.connections.map_or_else(String::new, |n| n.to_string());
            table.add_row([c.name, c.role, c.serial, ends, connections]);
        }
        say!("{table}");
        if !tokens.is_empty() {
            let mut table = plain_table(["token", "role", "uses left", "ends in", ""]);
            for t in tokens {
                table.add_row([t.id, t.role, t.uses_left.to_string(), left(t.not_after_unix), String::new()]);
            }
            say!("\n{table}");
        }
        Ok(())
    }
}

fn plain_table(head: [&str; 5]) -> Table {
    let mut table = Table::new();
    table.load_style(TableStyle::new().header_separator(LineStyle::none().fill('-').junction('-')));
    table.set_header(head);
    table
}

/// `fleet certs revoke`.
#[derive(Debug, Args)]
pub(super) struct Revoke {
    /// A name (all its certificates), a serial number, or a token's id
    #[arg(value_name = "NAME|SERIAL|TOKEN-ID")]
    what: String,
    #[command(flatten)]
    place: Place,
}

impl Revoke {
    async fn run(self) -> Result<(), Failure> {
        let what = self.what;
        let (serials, token, ended) = match self.place.find()? {
            Found::Folder(state) => {
                let revoked = office(&state)?.revoke(&what, unix_now())?;
                (
                    revoked.serials,
                    revoked.token,
                    "a running coordinator ends its connections within a second".to_owned(),
                )
            }
            Found::Remote(coordinator) => {
                let request = v1::RevokeRequest { what: what.clone() };
                let revoked = client(&coordinator).await?.revoke(request).await?.into_inner();
                (revoked.serials, revoked.token, format!("{} connections ended", revoked.connections))
            }
        };
        if token {
            say!("token {what} is withdrawn");
        }
        if !serials.is_empty() {
            say!("{what}: {} certificate{} revoked; {ended}", serials.len(), if serials.len() == 1 { "" } else { "s" });
        }
        Ok(())
    }
}

/// `fleet certs renew`.
#[derive(Debug, Args)]
pub(super) struct Renew {
    /// Another name or address under which machines reach the coordinator; may be given several times. Those it has stay
    #[arg(long, value_name = "HOST")]
    name: Vec<String>,
    #[command(flatten)]
    place: Place,
}

impl Renew {
    async fn run(self) -> Result<(), Failure> {
        match self.place.find()? {
            Found::Folder(state) => {
                self.name.iter().try_for_each(|host| check_host(host))?;
                let mut office = office(&state)?;
                let mut names = office.own()?.addresses().map_err(OfficeError::from)?;
                names.extend(self.name);
                names.sort();
                names.dedup();
                let renewed = office.renew_own(&names, unix_now())?;
                let lasts = duration(renewed.not_after.saturating_sub(unix_now()));
                say!(
                    "the coordinator's certificate is for {}, for {lasts}; a running coordinator uses it from now on",
                    names.join(", ")
                );
            }
            Found::Remote(coordinator) => {
                if !self.name.is_empty() {
                    return Err(Failure::usage(
                        "--name is for the coordinator's own certificate: run this on its machine, with --state",
                    ));
                }
                let channel = connection::channel(&coordinator).await?;
                let who = join::renew(channel, &connection::identity()).await?;
                say!("{who}: renewed, for {}", duration(who.not_after.saturating_sub(unix_now())));
            }
        }
        Ok(())
    }
}

impl Certs {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Init(init) => init.run(),
            Self::Issue(issue) => issue.run(),
            Self::List(list) => list.run().await,
            Self::Revoke(revoke) => revoke.run().await,
            Self::Renew(renew) => renew.run().await,
        }
    }
}

impl From<OfficeError> for Failure {
    fn from(error: OfficeError) -> Self {
        match error {
            OfficeError::Unknown(_)
            | OfficeError::Refused { .. }
            | OfficeError::Authority(AuthorityError::Exists(_)) => Self::usage(error.to_string()),
            _ => Self::failed(error.to_string()),
        }
    }
}
