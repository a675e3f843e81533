//! Power cuts of a real file system: ext4 on a loop device, in each mode that changes what a crash leaves.
//!
//! The simulator's model of a disk is ours; this one is the kernel's. At a random moment nothing reaches the device
//! any more, the process is killed, and the file system is mounted again, which recovers it. Then the database must
//! hold a prefix of the commands with at least everything up to the last acked `sync`. One image lives through many
//! cuts, some of them while the database recovers.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::dice::Dice;
use crate::mounts::{Cut, Mounted, in_own_mounts, make_ext4, repair_ext4};
use crate::place::{Place, kept_path};
use crate::pool::Suite;
use crate::reopen::{check_no_waste, read_state, verify};
use crate::shell::Shell;
use crate::trust;
use crate::workload::{Op, State, Workload, matching_prefix, options, text};

/// How many cuts one image lives through.
const CUTS_OF_ONE: u64 = 10;

/// What is given to mkfs.ext4, and how the image is mounted. Without a journal e2fsck does its work.
const VARIANTS: [(&str, &str); 6] = [
    ("", "data=ordered"),
    ("", "data=writeback"),
    ("", "data=ordered,noauto_da_alloc"),
    ("-O ^has_journal", "noatime"),
    ("-b 4096", "data=writeback,noauto_da_alloc,commit=1"),
    ("", "data=journal"),
];

#[test]
fn the_power_goes() {
    in_own_mounts("power::the_power_goes", || {
        let suite = Suite::new("kernel: power cuts");
        let cuts = trust::cases(8, 100, 5000);
        if let Err(why) = cut_an_empty_one() {
            suite.skip(cuts, &why);
            return suite.end();
        }
        let lives = cuts.div_ceil(CUTS_OF_ONE).max(2);
        suite.run_each(lives, |life| live(&suite, life, cuts.div_ceil(lives)));
        // A cut that takes nothing away is none.
        if suite.detail("lost_unsynced") == 0 && suite.cases() >= 100 {
            suite.fail("no cut has lost an unsynced command: do they reach the device?".to_owned());
        }
        suite.end();
    });
}

/// Whether this machine can do it.
fn cut_an_empty_one() -> Result<(), String> {
    let place = Place::new();
    let (image, dir) = (place.file("image"), place.file("mount"));
    make_ext4(&image, 8192, "")?;
    let mounted = Mounted::ext4(&image, &dir, "data=ordered")?;
    Cut::arm(&dir)?.now()?;
    mounted.unmount()
}

fn live(suite: &Suite, life: u64, cuts: u64) -> Result<(), String> {
    let place = Place::new();
    let mut powered = Powered::new(suite, &place, life)?;
    for round in 0..cuts {
        if let Err(what) = powered.round() {
            let Powered { dir, mounted, variant, .. } = powered;
            let kept = kept_path();
            // While it is still mounted.
            let _ = Command::new("cp").arg("-a").args([&dir, &kept]).status();
            drop(mounted);
            let what = format!("round {round}, {variant:?}: {what}, files in {}", kept.display());
            return Err(place.keep(&what));
        }
    }
    Ok(())
}

/// One image and what must be in it.
struct Powered<'a> {
    suite: &'a Suite,
    image: PathBuf,
    dir: PathBuf,
    variant: (&'static str, &'static str),
    mounted: Option<Mounted>,
    dice: Dice,
    workload: Workload,
    state: State,
}

impl<'a> Powered<'a> {
    fn new(suite: &'a Suite, place: &'a Place, life: u64) -> Result<Self, String> {
        let seed = trust::seed();
        let variant = VARIANTS[(life % VARIANTS.len() as u64) as usize];
        let (image, dir) = (place.file("image"), place.file("mount"));
        make_ext4(&image, 48 << 10, variant.0)?;
        let mounted = Some(Mounted::ext4(&image, &dir, variant.1)?);
        let workload = Workload::new(seed, 3000 + life);
        let dice = Dice::new(seed, 4000 + life);
        Ok(Powered { suite, image, dir, variant, mounted, dice, workload, state: State::new() })
    }

    fn db(&self) -> PathBuf {
        self.dir.join("db")
    }

    fn options(&mut self) -> Vec<String> {
        let background_threads = self.dice.pick(&[0, 1, 2, 2]);
        options(&mut self.dice, background_threads)
    }

    fn round(&mut self) -> Result<(), String> {
        let count = 10 + self.dice.below(300);
        self.workload.upkeep_per_mille = self.dice.pick(&[0, 10, 60]);
        self.workload.sync_percent = self.dice.pick(&[0, 3, 10, 50]);
        let ops = self.workload.ops(count);
        let options = self.options();
        let cut = Cut::arm(&self.dir)?;
        let mut shell = Shell::on(&self.db(), &options);
        shell.feed(text(&ops), self.dice.chance(20));
        let wait = (self.dice.below(count + 1), self.dice.delay(6000));
        let (answers, early) = cut_while_reading(cut, &mut shell, count, wait)?;
        let ended = shell.kill();
        let answers = answers.into_iter().chain(ended.answers).collect::<Vec<_>>();
        self.suite.count_case();
        self.mount_again()?;
        self.cut_recoveries()?;
        self.look(&ops, &answers, early)
    }

    fn look(&mut self, ops: &[Op], answers: &[String], early: usize) -> Result<(), String> {
        let options = self.options();
        let found = read_state(&self.db(), &options, &mut self.dice)?;
        let first = promised(ops, &answers[..early]);
        let last = possible(ops, answers);
        let count = matching_prefix(&self.state, ops, (first, last), &found)?;
        self.suite.add("lost_unsynced", last.saturating_sub(1).saturating_sub(count) as u64);
        self.suite.add("kept", count as u64);
        self.suite.add("late_syncs_lost", u64::from(promised(ops, answers) > count));
        self.state = found;
        if self.dice.chance(30) {
            verify(&self.db())?;
            check_no_waste(&self.db())?;
        }
        Ok(())
    }

    fn mount_again(&mut self) -> Result<(), String> {
        if let Some(mounted) = self.mounted.take() {
            mounted.unmount()?;
        }
        if self.variant.0.contains("^has_journal") {
            repair_ext4(&self.image)?;
        }
        self.mounted = Some(Mounted::ext4(&self.image, &self.dir, self.variant.1)?);
        Ok(())
    }

    /// Sometimes the power goes again while the database recovers.
    fn cut_recoveries(&mut self) -> Result<(), String> {
        while self.dice.chance(25) {
            let options = self.options();
            let cut = Cut::arm(&self.dir)?;
            let shell = Shell::on(&self.db(), &options);
            thread::sleep(self.dice.delay(15_000));
            cut.now()?;
            shell.kill();
            self.suite.count_case();
            self.suite.add("in_recovery", 1);
            self.mount_again()?;
        }
        Ok(())
    }
}

/// Cuts, a while after a number of answers was read, while more are read. Gives those, and how many of them were there
/// before the cut began.
///
/// Only those are acks. With the power the machine is gone too, and nobody hears it any more. Here the process lives on
/// for a moment and may hear from the kernel that a sync was done whose bytes are not there afterwards; the figure
/// `late_syncs_lost` counts such cuts.
fn cut_while_reading(
    cut: Cut,
    shell: &mut Shell,
    answers_max: u64,
    (count, delay): (u64, Duration),
) -> Result<(Vec<String>, usize), String> {
    let mut answers = Vec::new();
    for _ in 0..count {
        answers.extend(shell.read());
    }
    let (is_over, is_cut) = (AtomicBool::new(false), AtomicBool::new(false));
    let mut early = answers.len();
    let result = thread::scope(|scope| {
        let cutter = scope.spawn(|| {
            thread::sleep(delay);
            is_over.store(true, Ordering::SeqCst);
            let result = cut.now();
            is_cut.store(true, Ordering::SeqCst);
            result
        });
        // A shell that has answered everything says nothing more.
        while !is_cut.load(Ordering::SeqCst)
            && (answers.len() as u64) < answers_max
            && let Some(answer) = shell.read()
        {
            answers.push(answer);
            if !is_over.load(Ordering::SeqCst) {
                early = answers.len();
            }
        }
        cutter.join().unwrap()
    });
    result.map(|_| (answers, early))
}

/// How many commands must be there at least, after these answers.
fn promised(ops: &[Op], answers: &[String]) -> usize {
    let acked = ops.iter().zip(answers).map(|(op, answer)| op.is_durable && answer == "ok");
    acked.collect::<Vec<_>>().into_iter().rposition(|is_promise| is_promise).map_or(0, |at| at + 1)
}

/// How many can be there at most. Errors come from the cut, so what follows the first one is too late.
fn possible(ops: &[Op], answers: &[String]) -> usize {
    let is_ok = |index: usize| answers.get(index).is_some_and(|answer| answer == "ok");
    let matters = |op: &Op| !op.edits.is_empty() || op.text.starts_with("keyspace ");
    let failed = (0..ops.len()).find(|index| !is_ok(*index) && matters(&ops[*index]));
    failed.map_or(ops.len(), |index| index + 1)
}

#[test]
fn promises_end_with_the_last_acked_sync_and_possibilities_with_the_first_error() {
    let op = |text: &str| Op {
        text: text.to_owned(),
        edits: vec![crate::workload::Edit { keyspace: "default", key: String::new(), value: None }],
        is_durable: text == "sync",
    };
    let ops = [op("x"), op("sync"), op("x"), op("x"), op("sync"), op("x")];
    let answers = ["ok", "ok", "ok", "err io", "err poisoned"].map(str::to_owned);
    let bounds = |answers: &[String]| (promised(&ops, answers), possible(&ops, answers));
    assert_eq!(bounds(&answers), (2, 4));
    assert_eq!(bounds(&answers[..3]), (2, 4));
    assert_eq!(bounds(&answers[..1]), (0, 2));
    assert_eq!(bounds(&[]), (0, 1));
}
