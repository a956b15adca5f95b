//! `certificates` and its verbs.

use clap::{Args, Subcommand};
use mainstay_core::MemberId;

use super::SharedOptions;

#[derive(Debug, Args)]
pub(crate) struct CertificatesOptions {
    #[command(flatten)]
    pub(crate) shared: SharedOptions,
    /// Whose, by default this machine's member's
    #[arg(long, value_name = "MEMBER")]
    pub(crate) member: Option<MemberId>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CertificatesVerb {
    /// For whom they are, and for how long
    Show(CertificatesOptions),
    /// Issue another one for PostgreSQL now; sessions go on
    Renew(CertificatesOptions),
    /// Make another key by which the other members know it, and drop the old one once all know the new one
    #[command(after_help = "Example: mainstay certificates rotate-key --member m2")]
    RotateKey(CertificatesOptions),
}
