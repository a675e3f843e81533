//! The arguments of `checkpoint`, `backup`, `backups` and `restore`.

use std::path::PathBuf;

use clap::Args;

#[derive(Args, Debug)]
pub struct CopyArgs {
    /// Directory to make it in
    pub dir: PathBuf,
}

#[derive(Args, Debug)]
pub struct BackupsArgs {
    /// Directory with backups
    pub dir: PathBuf,
    /// Read every byte of every backup; exit 3 if anything is damaged
    #[arg(long, conflicts_with = "remove")]
    pub verify: bool,
    /// Remove this backup, and what only it needs
    #[arg(long, value_name = "ID")]
    pub remove: Option<u64>,
}

#[derive(Args, Debug)]
pub struct RestoreArgs {
    /// Directory with backups
    pub dir: PathBuf,
    /// Which backup (default: the latest)
    #[arg(long, value_name = "N")]
    pub id: Option<u64>,
}
