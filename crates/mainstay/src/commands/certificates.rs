//! `certificates`: what the certificates of this member say, a new one for PostgreSQL, and another key for the member.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use mainstay_core::MemberId;
use mainstay_member::KeyStatus;
use mainstay_member::certificates::{self, CertificateStatus, CertificatesStatus};

use crate::cli::CertificatesVerb;
use crate::client::Control;
use crate::configuration;
use crate::output::println;

/// Every member writes the new key down within milliseconds, if it runs.
const KEY_PATIENCE: Duration = Duration::from_secs(10);
const KEY_LOOK_INTERVAL: Duration = Duration::from_millis(100);

pub(crate) async fn run(verb: &CertificatesVerb) -> Result<ExitCode> {
    let (CertificatesVerb::Show(options)
    | CertificatesVerb::Renew(options)
    | CertificatesVerb::RotateKey(options)) = verb;
    let configuration = configuration::load(&options.shared.config)?;
    let control = Control::on(&configuration, options.member.as_ref());
    match verb {
        CertificatesVerb::Show(_) => {
            // This machine's are files: that needs no running member.
            let other = options.member.as_ref().filter(|member| **member != configuration.me);
            let status: CertificatesStatus = match other {
                Some(_) => control.get("/v1/certificates").await?,
                None => certificates::status(&configuration).map_err(|error| anyhow!(error))?,
            };
            if options.shared.json {
                println!("{}", serde_json::to_string_pretty(&status)?);
                return Ok(ExitCode::SUCCESS);
            }
            for certificate in &status.certificates {
                println!("{}", line(certificate));
            }
            let whose = other.map_or("This member", MemberId::as_str);
            match (status.has_authority_key, other) {
                (true, _) => println!("{whose} has the key of the cluster's CA, and renews by itself."),
                (false, Some(_)) => {
                    println!("{whose} has not the key of the cluster's CA: it cannot renew by itself.")
                }
                (false, None) => println!(
                    "{whose} has no {}: it cannot renew by itself.",
                    certificates::authority_key(&configuration).display()
                ),
            }
        }
        CertificatesVerb::Renew(_) => {
            let renewed: CertificateStatus = control.post("/v1/certificates/renew", &()).await?;
            match options.shared.json {
                true => println!("{}", serde_json::to_string_pretty(&renewed)?),
                false => println!("{}", line(&renewed)),
            }
        }
        CertificatesVerb::RotateKey(_) => {
            let whose = options.member.as_ref().unwrap_or(&configuration.me);
            let shown = rotate_key(&control, whose).await?;
            match options.shared.json {
                true => println!("{}", serde_json::to_string_pretty(&shown)?),
                false => {
                    println!("{whose} shows the key {}; its old key is worth nothing any more", shown.shown)
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks for it, and waits until the old key is dropped.
async fn rotate_key(control: &Control, whose: &MemberId) -> Result<KeyStatus> {
    let asked: KeyStatus = control.post("/v1/certificates/rotate-key", &()).await?;
    let key = asked.next.unwrap_or(asked.shown);
    let begun = Instant::now();
    let mut waits_for = Vec::new();
    while begun.elapsed() < KEY_PATIENCE {
        // Connections are made anew meanwhile: an answer may be lost.
        if let Ok(status) = control.get::<KeyStatus>("/v1/certificates/key").await {
            if status.shown == key && status.accepted == [key.as_str()] {
                return Ok(status);
            }
            waits_for = status.waits_for;
        }
        tokio::time::sleep(KEY_LOOK_INTERVAL).await;
    }
    if waits_for.is_empty() {
        bail!("the key of {whose} is not changed yet, and goes on to be; see how far it is: ask again");
    }
    let names: Vec<&str> = waits_for.iter().map(MemberId::as_str).collect();
    bail!(
        "{} did not say that its new key is known there, so {whose} does not show it yet; start it, or see: mainstay member remove; \
         then the change goes on by itself",
        names.join(" and ")
    )
}

fn line(certificate: &CertificateStatus) -> String {
    let names = match certificate.names.as_slice() {
        [] => String::new(),
        names => format!("  for {}", names.join(", ")),
    };
    let renewal =
        certificate.renewal.as_ref().map_or_else(String::new, |why| format!("  to be renewed: {why}"));
    format!("{:<9}  {:>5} days left{names}{renewal}", certificate.purpose, certificate.days_left)
}
