//! A join token: one text that lets a machine or a person into a fleet.
//!
//! It holds the coordinator's address as its maker saw it, the fingerprint of the authority (so that the joiner knows
//! whom it talks to before it says anything), and a secret of 160 bits. The coordinator keeps only the secret's hash.

use std::fmt;
use std::io::{self, Read as _};
use std::str::FromStr;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::sha256;

/// How a token begins, so that people and scanners for leaked secrets know one.
const PREFIX: &str = "nsfjoin_";
const SECRET: usize = 20;
const FINGERPRINT: usize = 32;
const CHECK: usize = 4;
/// An address that is longer is none.
const MAX_ADDRESS: usize = 300;

/// The part of a token that must stay secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; SECRET]);

impl Secret {
    /// A new one, from the system's random numbers.
    ///
    /// # Errors
    /// The system has none.
    pub fn random() -> Result<Self, TokenError> {
        let mut bytes = [0; SECRET];
        SystemRandom::new()
            .fill(&mut bytes)
            .map_err(|_| TokenError("the system gives no random numbers".to_owned()))?;
        Ok(Self(bytes))
    }

    /// From a message.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// For a message.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What is kept of it. A plain hash will do: nobody guesses 160 bits.
    pub fn hash(&self) -> [u8; 32] {
        sha256(&self.0)
    }

    /// Names the token in lists; opens nothing.
    pub fn id(&self) -> String {
        HEXLOWER.encode(&sha256(&self.hash())[..4])
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A join token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Where the coordinator is, such as `https://10.0.0.5:7070`.
    pub coordinator: String,
    /// SHA-256 of the authority's certificate.
    pub authority: [u8; FINGERPRINT],
    /// What opens.
    pub secret: Secret,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("coordinator", &self.coordinator)
            .field("secret", &self.secret)
            .finish_non_exhaustive()
    }
}

/// Why a text is no token. It never repeats the text: it may be a token with a slip in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a join token as `fleet join-token` prints it ({PREFIX}…), found {0}")]
pub struct TokenError(String);

impl Token {
    /// The token as text, which is a secret.
    pub fn reveal(&self) -> String {
        let mut bytes = self.secret.0.to_vec();
        bytes.extend_from_slice(&self.authority);
        bytes.extend_from_slice(self.coordinator.as_bytes());
        let check = sha256(&bytes);
        bytes.extend_from_slice(&check[..CHECK]);
        format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes))
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let wrong = |what: &str| TokenError(what.to_owned());
        let text = text.trim();
        if text.is_empty() {
            return Err(wrong("nothing"));
        }
        let body = text.strip_prefix(PREFIX).ok_or_else(|| wrong("something that begins otherwise"))?;
        if body.len() > (SECRET + FINGERPRINT + CHECK + MAX_ADDRESS) * 2 {
            return Err(wrong("something far longer"));
        }
        let cut = "one that was cut short or changed on its way; copy all of it";
        let bytes = BASE64URL_NOPAD.decode(body.as_bytes()).map_err(|_| wrong(cut))?;
        let (bytes, check) = bytes.split_at_checked(bytes.len().saturating_sub(CHECK)).ok_or_else(|| wrong(cut))?;
        if sha256(bytes)[..CHECK] != *check {
            return Err(wrong(cut));
        }
        let (secret, rest) = bytes.split_first_chunk::<SECRET>().ok_or_else(|| wrong(cut))?;
        let (authority, address) = rest.split_first_chunk::<FINGERPRINT>().ok_or_else(|| wrong(cut))?;
        let coordinator = std::str::from_utf8(address).map_err(|_| wrong(cut))?.to_owned();
        if coordinator.len() > MAX_ADDRESS || coordinator.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(wrong("one whose address is none"));
        }
        Ok(Self { coordinator, authority: *authority, secret: Secret(*secret) })
    }
}

/// A token as somebody gave it: the text of one, or `-` for what stands on standard input. Shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Given(String);

impl Given {
    /// The token.
    ///
    /// # Errors
    /// It is none, or standard input cannot be read.
    pub fn token(&self) -> Result<Token, TokenError> {
        if self.0 != "-" {
            return self.0.parse();
        }
        let mut text = String::new();
        let read = io::stdin().take(MOST_TYPED).read_to_string(&mut text);
        read.map_err(|e| TokenError(format!("a standard input that cannot be read ({e})")))?;
        text.parse()
    }
}

/// Bytes of standard input that can be a token.
const MOST_TYPED: u64 = 8192;

impl FromStr for Given {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Given(…)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token(secret: [u8; SECRET], authority: [u8; 32], coordinator: String) -> Token {
        Token { coordinator, authority, secret: Secret(secret) }
    }

    proptest! {
        #[test]
        fn a_token_survives_the_way(secret: [u8; SECRET], authority: [u8; 32], address in "https://[a-z0-9.:]{0,40}") {
            let token = token(secret, authority, address);
            let text = token.reveal();
            prop_assert_eq!(format!(" {text}\n").parse::<Token>(), Ok(token));
        }

        #[test]
        fn one_changed_letter_is_noticed_and_not_repeated(secret: [u8; SECRET], at in 0_usize..60) {
            let text = token(secret, [7; 32], "https://a:1".to_owned()).reveal();
            let mut letters: Vec<char> = text.chars().collect();
            let at = PREFIX.len() + at;
            letters[at] = if letters[at] == 'A' { 'B' } else { 'A' };
            let changed: String = letters.into_iter().collect();
            let error = changed.parse::<Token>().expect_err("changed").to_string();
            prop_assert!(!error.contains(&changed[PREFIX.len()..]));
        }

        #[test]
        fn no_text_is_a_panic(text in ".{0,200}") {
            let _ = text.parse::<Token>();
            let _ = format!("{PREFIX}{text}").parse::<Token>();
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let token = token([0xab; SECRET], [0; 32], "https://a:1".to_owned());
        let shown = format!("{token:?} {:?}", token.secret);
        assert!(!shown.contains("171") && !shown.to_lowercase().contains("abab"), "{shown}");
        assert_eq!(token.secret.id().len(), 8);
        assert_ne!(token.secret.hash()[..4], sha256(&token.secret.hash())[..4], "the name is not part of the hash");
    }
}
