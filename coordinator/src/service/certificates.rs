//! Tokens for certificates, certificates for newer ones, and looking after both.

use std::sync::Arc;

use fleet_common::id::PeerName;
use fleet_common::wire::{WireError, v1};
use fleet_secure::authority::{Issued, KeyRequest};
use fleet_secure::identity::Role;
use fleet_secure::server::{Peer, Refused};
use fleet_secure::unix_now;
use tonic::{Request, Response, Status};

use super::rpc::certificates_server::{Certificates, CertificatesServer};
use super::rpc::join_server::{Join, JoinServer};
use crate::security::{Caller, OfficeError, Security};

/// A request for a certificate is smaller than this, and so is everything else that is asked here.
const MAX_REQUEST: usize = 64 << 10;
/// A token is good for so many certificates at most.
const MAX_USES: u32 = 100_000;
/// And for so long.
const MAX_VALID: u64 = 365 * 24 * 3600;

/// The services for certificates.
#[derive(Clone)]
pub struct Desk(Arc<Security>);

impl Desk {
    /// Of a running coordinator.
    pub fn new(security: Arc<Security>) -> Self {
        Self(security)
    }

    /// The one that answers without a certificate.
    pub fn join(&self) -> JoinServer<Self> {
        JoinServer::new(self.clone()).max_decoding_message_size(MAX_REQUEST)
    }

    /// The one for bearers.
    pub fn certificates(&self) -> CertificatesServer<Self> {
        CertificatesServer::new(self.clone()).max_decoding_message_size(MAX_REQUEST)
    }

    /// What went wrong, for the asker; what is a refusal is logged and counted.
    fn status(&self, peer: Option<&Peer>, error: OfficeError) -> Status {
        let text = error.to_string();
        match (error, peer) {
            (OfficeError::Refused { refused, .. }, Some(peer)) => {
                self.0.refuse(refused, peer, &text);
                match refused {
                    Refused::NameTaken => Status::already_exists(text),
                    _ => Status::permission_denied(text),
                }
            }
            (OfficeError::Unknown(_), _) => Status::not_found(text),
            (error, _) => {
                tracing::error!(%error, "certificates cannot be given out");
                Status::unavailable("the coordinator cannot give out certificates now; its log says why")
            }
        }
    }

    /// The key of a request, or a refusal.
    fn key(&self, peer: Option<&Peer>, der: &[u8]) -> Result<KeyRequest, Status> {
        KeyRequest::read(der).map_err(|error| {
            if let Some(peer) = peer {
                self.0.refuse(Refused::BadRequest, peer, &error.to_string());
            }
            Status::invalid_argument(error.to_string())
        })
    }

    async fn reply(&self, issued: Issued) -> Result<Response<v1::JoinReply>, Status> {
        let authority = self.0.at_the_desk(|office| Ok(office.authority().to_vec())).await;
        let authority = authority.map_err(|e| self.status(None, e))?;
        Ok(Response::new(v1::JoinReply { certificate: issued.certificate.to_vec(), authority }))
    }
}

fn peer<T>(request: &Request<T>) -> Option<Peer> {
    request.extensions().get::<Peer>().cloned()
}

#[tonic::async_trait]
impl Join for Desk {
    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::JoinReply>, Status> {
        let peer = peer(&request);
        let v1::JoinRequest { secret, name, request } = request.into_inner();
        let name: PeerName = name.parse().map_err(|e| Status::invalid_argument(WireError::Id(e).to_string()))?;
        let key = self.key(peer.as_ref(), &request)?;
        let joined = self.0.at_the_desk(move |office| {
            office.refresh()?;
            office.join(&secret, &name, &key, unix_now())
        });
        let issued = joined.await.map_err(|e| self.status(peer.as_ref(), e))?;
        let who = &issued.identity;
        tracing::info!(who = %who, serial = who.serial, address = peer.map(|p| p.address.to_string()), "joined");
        self.reply(issued).await
    }
}

#[tonic::async_trait]
impl Certificates for Desk {
    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::JoinReply>, Status> {
        let peer = peer(&request);
        let bearer = Caller::of(request.extensions()).identity().cloned();
        let bearer = bearer.ok_or_else(|| Status::unauthenticated("only what there is can be renewed"))?;
        let key = self.key(peer.as_ref(), &request.into_inner().request)?;
        let renewed = self.0.at_the_desk(move |office| {
            office.refresh()?;
            office.renew(&bearer, &key, unix_now())
        });
        let issued = renewed.await.map_err(|e| self.status(peer.as_ref(), e))?;
        tracing::info!(who = %issued.identity, serial = issued.identity.serial, "a certificate was renewed");
        self.reply(issued).await
    }

    async fn list(&self, _: Request<v1::ListRequest>) -> Result<Response<v1::ListReply>, Status> {
        let listed = self.0.at_the_desk(|office| {
            office.refresh()?;
            let now = unix_now();
            Ok((office.certificates(now), office.tokens(now)))
        });
        let (certificates, tokens) = listed.await.map_err(|e| self.status(None, e))?;
        let connections = self.0.connections();
        let certificates = certificates
            .into_iter()
            .map(|c| v1::IssuedCertificate {
                connections: connections.get(&c.issue.serial).copied().unwrap_or(0),
                serial: c.issue.serial,
                role: c.issue.role.name().to_owned(),
                name: c.issue.name.into(),
                not_before_unix: c.issue.not_before,
                not_after_unix: c.issue.not_after,
                revoked: c.revoked,
            })
            .collect();
        let tokens = tokens
            .into_iter()
            .map(|(token, uses_left)| v1::OpenToken {
                id: token.id,
                role: token.role.name().to_owned(),
                uses_left,
                not_after_unix: token.not_after,
            })
            .collect();
        Ok(Response::new(v1::ListReply { certificates, tokens }))
    }

    async fn issue_token(
        &self,
        request: Request<v1::IssueTokenRequest>,
    ) -> Result<Response<v1::IssueTokenReply>, Status> {
        let by = Caller::of(request.extensions());
        let v1::IssueTokenRequest { role, uses, valid_seconds } = request.into_inner();
        let role: Role = role.parse().map_err(Status::invalid_argument)?;
        if !(1..=MAX_USES).contains(&uses) || !(1..=MAX_VALID).contains(&valid_seconds) {
            let text =
                format!("expected 1 to {MAX_USES} uses and at most a year, found {uses} uses, {valid_seconds} s");
            return Err(Status::invalid_argument(text));
        }
        let made = self.0.at_the_desk(move |office| {
            let (secret, token) = office.token(role, uses, valid_seconds, unix_now())?;
            Ok((secret, token, office.fingerprint()))
        });
        let (secret, token, authority) = made.await.map_err(|e| self.status(None, e))?;
        let by = by.identity().map(ToString::to_string);
        tracing::info!(id = token.id, role = %role, uses, valid_seconds, by, "a join token was made");
        Ok(Response::new(v1::IssueTokenReply {
            id: token.id,
            secret: secret.as_bytes().to_vec(),
            authority_sha256: authority.to_vec(),
            not_after_unix: token.not_after,
        }))
    }

    async fn revoke(&self, request: Request<v1::RevokeRequest>) -> Result<Response<v1::RevokeReply>, Status> {
        let by = Caller::of(request.extensions()).identity().map(ToString::to_string);
        let what = request.into_inner().what;
        let revoked = self.0.at_the_desk(move |office| {
            office.refresh()?;
            office.revoke(&what, unix_now())
        });
        let revoked = revoked.await.map_err(|e| self.status(None, e))?;
        let connections = self.0.enforce();
        tracing::info!(serials = ?revoked.serials, token = revoked.token, connections, by, "certificates were revoked");
        Ok(Response::new(v1::RevokeReply { serials: revoked.serials, connections, token: revoked.token }))
    }
}
