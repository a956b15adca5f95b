//! What is expected of the virtual address.

use super::super::Expectation;
use super::{duration, target};

pub(super) fn expectation(words: &[&str]) -> Result<Expectation, String> {
    use Expectation as E;
    Ok(match words {
        ["address", "at", who, "within", time @ ..] => {
            E::AddressAt { who: target(who)?, within: duration(time)? }
        }
        ["address", "left", who, "within", time @ ..] => {
            E::AddressLeft { who: target(who)?, within: duration(time)? }
        }
        ["address-gap", "<", time @ ..] => E::AddressGap { below: duration(time)? },
        ["one", "address", "holder"] => E::OneAddressHolder,
        _ => {
            let known = "address at MEMBER within TIME, address left MEMBER within TIME, address-gap < TIME, one address holder";
            return Err(format!("`expect {}` is not understood; there are: {known}", words.join(" ")));
        }
    })
}
