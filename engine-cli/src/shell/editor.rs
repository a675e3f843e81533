//! The shell on a terminal: a line editor with history, completion of command words, and help.
//!
//! The language is that of the pipe. Two words more are for people: `help`, and `exit` for `quit`.

use std::path::{Path, PathBuf};

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{Context, Editor, Helper, Highlighter, Hinter, Validator};

use super::protocol::WORDS;
use super::session::{Next, Session};
use crate::error::Failure;

/// Completes the first word of a line.
#[derive(Helper, Highlighter, Hinter, Validator)]
struct Words;

impl Completer for Words {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = &line[..position];
        if typed.contains(' ') {
            return Ok((position, Vec::new()));
        }
        let words = WORDS.iter().map(|(word, _)| *word).chain(["help"]);
        Ok((0, words.filter(|word| word.starts_with(typed)).map(str::to_owned).collect()))
    }
}

/// Reads lines until `quit`, ctrl-D, or until nobody can be answered.
pub fn run(session: &mut Session<'_>, history: Option<&Path>) -> Result<(), Failure> {
    let history = history.map(Path::to_path_buf).or_else(default_history);
    let mut editor: Editor<Words, DefaultHistory> = Editor::new().map_err(terminal_failure)?;
    editor.set_helper(Some(Words));
    if let Some(file) = &history {
        // A history that is not there yet, or not readable, is an empty one.
        let _ = editor.load_history(file);
    }
    session.say("esker shell: help lists the commands, ctrl-D leaves")?;
    let ended = read_lines(session, &mut editor);
    if let Some(file) = &history {
        let _ = file.parent().map(std::fs::create_dir_all);
        let _ = editor.save_history(file);
    }
    ended
}

fn read_lines(
    session: &mut Session<'_>,
    editor: &mut Editor<Words, DefaultHistory>,
) -> Result<(), Failure> {
    loop {
        let prompt = match session.state() {
            (name, None) => format!("{name}> "),
            (_, Some(left)) => format!("batch, {left} to come> "),
        };
        let line = match editor.readline(&prompt) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                session.forget_batch();
                continue;
            }
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(terminal_failure(error)),
        };
        let _ = editor.add_history_entry(&line);
        match line.as_str() {
            "" if session.state().1.is_none() => {}
            "exit" => return Ok(()),
            "help" => help(session)?,
            _ => {
                if session.line(line.as_bytes())? == Next::Quit {
                    return Ok(());
                }
            }
        }
    }
}

fn help(session: &mut Session<'_>) -> Result<(), Failure> {
    for (_, usage) in WORDS {
        session.say(usage)?;
    }
    session.say(
        r"tokens are separated by one space; a space in a key or value is \x20, a backslash \\",
    )
}

/// `$XDG_STATE_HOME/esker_history`, or the like below the home directory.
fn default_history() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let state =
        state.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")));
    state.map(|dir| dir.join("esker_history"))
}

fn terminal_failure(error: ReadlineError) -> Failure {
    let error = match error {
        ReadlineError::Io(error) => error,
        other => std::io::Error::other(other.to_string()),
    };
    Failure::io("read", Path::new("the terminal"), error)
}
