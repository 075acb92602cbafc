//! RabbitMQ's password hashes: base64(salt4 ++ H(salt4 ++ password)).
//!
//! Keeps: comparison in constant time; an unknown user costs what a known one does.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::Md5;
use sha2::{Digest, Sha256, Sha512};
use subtle::ConstantTimeEq;

use crate::clock;
use crate::model::UserSpec;

pub const SHA256: &str = "rabbit_password_hashing_sha256";
pub const SHA512: &str = "rabbit_password_hashing_sha512";
pub const MD5: &str = "rabbit_password_hashing_md5";

const SALT: usize = 4;

fn digest(hashing: &str, salt: &[u8], password: &str) -> Vec<u8> {
    let input = [salt, password.as_bytes()].concat();
    match hashing {
        SHA512 => Sha512::digest(&input).to_vec(),
        MD5 => Md5::digest(&input).to_vec(),
        _ => Sha256::digest(&input).to_vec(),
    }
}

/// A new SHA-256 hash with a salt of its own.
pub fn hash(password: &str) -> String {
    let chance = clock::random_bytes();
    let salt = &chance[..SALT];
    STANDARD.encode([salt, &digest(SHA256, salt, password)].concat())
}

/// True when `password` is the user's. No user, no hash or no password: false.
pub fn verify(user: Option<&UserSpec>, password: &str) -> bool {
    let (stored, hashing) = user.map_or(("", SHA256), |u| (u.password_hash.as_str(), &*u.hashing));
    let stored = STANDARD.decode(stored).unwrap_or_default();
    let (salt, expected) = stored.split_at(stored.len().min(SALT));
    let found = digest(hashing, salt, password);
    !password.is_empty() && !expected.is_empty() && bool::from(found.ct_eq(expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(hashing: &str, password_hash: String) -> UserSpec {
        let hashing = hashing.into();
        UserSpec {
            name: "u".into(),
            password_hash,
            hashing,
            tags: String::new(),
        }
    }

    #[test]
    fn all_three_algorithms_verify_and_refuse() {
        for hashing in [SHA256, SHA512, MD5] {
            let salt = [1, 2, 3, 4];
            let hash = STANDARD.encode([&salt[..], &digest(hashing, &salt, "secret")].concat());
            let user = user(hashing, hash);
            assert!(verify(Some(&user), "secret"), "{hashing}");
            assert!(!verify(Some(&user), "Secret"), "{hashing}");
        }
        assert!(verify(Some(&user(SHA256, hash("x"))), "x"));
        assert!(!verify(Some(&user(SHA256, String::new())), ""));
        assert!(!verify(None, "x"));
    }
}
