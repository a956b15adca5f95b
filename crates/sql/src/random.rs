//! Numbers that nobody can guess: keys to cancel with, nonces.

use ring::rand::{SecureRandom, SystemRandom};

/// Fills from the kernel. The process cannot do its work without: it ends.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the kernel gives random numbers");
    bytes
}

/// 18 bytes in the letters that SCRAM allows.
pub(crate) fn nonce() -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    bytes::<24>().iter().map(|byte| char::from(LETTERS[usize::from(byte % 64)])).collect()
}
