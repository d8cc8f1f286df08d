//! What a stranger may show: certificates, requests for them, join tokens; and the files that they are kept in.

use fleet_secure::authority::KeyRequest;
use fleet_secure::credentials::Credentials;
use fleet_secure::identity::Identity;
use fleet_secure::token::{Secret, Token};
use rustls::pki_types::CertificateDer;

use crate::folder::Folder;

/// The first byte says what the others are. Nothing that is read makes a noise, and a token is the same as text.
pub fn secure(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    match kind % 5 {
        0 => certificate(bytes),
        1 => {
            if let Ok(request) = KeyRequest::read(bytes) {
                assert_eq!(request.fingerprint().len(), 32);
            }
        }
        2 => credentials(bytes),
        3 => {
            if let Ok(token) = String::from_utf8_lossy(bytes).parse::<Token>() {
                token_again(&token);
            }
        }
        _ => built(bytes),
    }
}

fn certificate(der: &[u8]) {
    let certificate = CertificateDer::from(der);
    if let Ok(identity) = Identity::of(&certificate) {
        let _ = (identity.to_string(), identity.renew_at());
    }
}

fn credentials(bytes: &[u8]) {
    let folder = Folder::new();
    folder.write("agent.pem", bytes);
    let Ok(read) = Credentials::load(&folder.path().join("agent.pem")) else { return };
    let _ = (read.identity(), read.key_fingerprint(), read.addresses());
    let there = folder.path().join("again.pem");
    read.save(&there).expect("there is room");
    let again = Credentials::load(&there).expect("our own file");
    assert_eq!((again.authority(), again.coordinator()), (read.authority(), read.coordinator()));
}

/// A token whose checksum is right.
fn built(bytes: &[u8]) {
    let (Some((secret, rest)), Some(authority)) = (bytes.split_first_chunk::<20>(), bytes.last_chunk::<32>()) else {
        return;
    };
    let secret = Secret::from_bytes(secret).expect("it has the length of one");
    let token = Token { coordinator: String::from_utf8_lossy(rest).into_owned(), authority: *authority, secret };
    if let Ok(read) = token.reveal().parse::<Token>() {
        assert_eq!(read, token);
    }
}

fn token_again(token: &Token) {
    assert_eq!(token.reveal().parse::<Token>().as_ref(), Ok(token));
}
