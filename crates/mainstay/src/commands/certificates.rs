//! `certificates`: what the certificates of this member say, and a new one for PostgreSQL.

use std::process::ExitCode;

use anyhow::{Result, anyhow};
use mainstay_core::MemberId;
use mainstay_member::certificates::{self, CertificateStatus, CertificatesStatus};

use crate::cli::CertificatesVerb;
use crate::client::Control;
use crate::configuration;
use crate::output::println;

pub(crate) async fn run(verb: &CertificatesVerb) -> Result<ExitCode> {
    let (CertificatesVerb::Show(options) | CertificatesVerb::Renew(options)) = verb;
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
    }
    Ok(ExitCode::SUCCESS)
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
