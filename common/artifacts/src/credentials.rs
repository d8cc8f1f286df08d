//! AWS's shared credentials file, which object_store does not read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A key and its secret.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) key_id: String,
    pub(crate) secret: String,
    pub(crate) token: Option<String>,
}

/// Without the secret, so that no log has it.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// Those of the environment's profile, from the file that it names or from the usual one; `None` if there are none, and
/// then whatever else object_store knows is tried.
///
/// # Errors
/// A file or profile that was asked for is not there; in words.
pub(crate) fn shared(environment: impl Fn(&str) -> Option<String>) -> Result<Option<Credentials>, String> {
    let named = environment("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from);
    let usual = || environment("HOME").map(|home| Path::new(&home).join(".aws/credentials"));
    let Some(path) = named.clone().or_else(usual) else { return Ok(None) };
    let wanted = environment("AWS_PROFILE");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if named.is_some() || wanted.is_some() => {
            return Err(format!("the credentials file {} cannot be read: {error}", path.display()));
        }
        Err(_) => return Ok(None),
    };
    let profile = wanted.as_deref().unwrap_or("default");
    match of_profile(&text, profile) {
        None if named.is_some() || wanted.is_some() => Err(format!(
            "expected aws_access_key_id and aws_secret_access_key under [{profile}] in {}, found none",
            path.display()
        )),
        found => Ok(found),
    }
}

fn of_profile(text: &str, profile: &str) -> Option<Credentials> {
    let mut inside = false;
    let mut values = BTreeMap::new();
    for line in text.lines().map(str::trim).filter(|l| !l.starts_with(['#', ';'])) {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            inside = name.trim() == profile;
        } else if let Some((key, value)) = line.split_once('=').filter(|_| inside) {
            values.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    Some(Credentials {
        key_id: values.remove("aws_access_key_id")?,
        secret: values.remove("aws_secret_access_key")?,
        token: values.remove("aws_session_token"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# ours\n[default]\naws_access_key_id = A\naws_secret_access_key=s/=cret\n\n[lab]\n\
                        AWS_ACCESS_KEY_ID=B\naws_secret_access_key = t\naws_session_token = u\n[half]\naws_access_key_id=C\n";

    #[test]
    fn the_profile_that_is_asked_for_counts_and_the_secret_is_not_shown() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("credentials");
        std::fs::write(&file, FILE).expect("writes");
        let ask = |profile: Option<&str>| {
            let (file, profile) = (file.display().to_string(), profile.map(str::to_owned));
            shared(move |key| match key {
                "AWS_SHARED_CREDENTIALS_FILE" => Some(file.clone()),
                "AWS_PROFILE" => profile.clone(),
                _ => None,
            })
        };
        let default = ask(None).expect("readable").expect("there");
        assert_eq!(
            (default.key_id.as_str(), default.secret.as_str(), default.token.as_deref()),
            ("A", "s/=cret", None)
        );
        assert!(!format!("{default:?}").contains("cret"));
        let lab = ask(Some("lab")).expect("readable").expect("there");
        assert_eq!((lab.key_id.as_str(), lab.token.as_deref()), ("B", Some("u")));
        assert!(ask(Some("half")).expect_err("no secret").contains("[half]"));
        assert_eq!(shared(|_| None), Ok(None), "nothing was asked for");
        let nowhere = |key: &str| (key == "AWS_SHARED_CREDENTIALS_FILE").then(|| "/nowhere".to_owned());
        assert!(shared(nowhere).is_err());
    }
}
