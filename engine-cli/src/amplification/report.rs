//! The page: one self-contained HTML file, light and dark, with the plots of every load and a table of totals.

use std::fmt::Write as _;

use super::line::{About, Line, Pair, Sample, Total};
use super::plot::{self, Axes, Dot, Series};

const STYLE: &str = include_str!("report.css");

/// The page for these lines.
pub fn page(lines: &[Line]) -> String {
    let report = Report::new(lines);
    let mut page = String::from(concat!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n",
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n",
        "<title>esker: amplification by strategy</title>\n",
    ));
    let _ = write!(page, "<style>\n{STYLE}</style>\n<main>\n");
    report.head(&mut page);
    report.overview(&mut page);
    for load in &report.loads {
        report.section(load, &mut page);
    }
    page.push_str("</main>\n</html>\n");
    page
}

/// The lines, and what occurs in them, in order of appearance.
struct Report<'a> {
    abouts: Vec<&'a About>,
    samples: Vec<&'a Sample>,
    totals: Vec<&'a Total>,
    loads: Vec<&'a str>,
    strategies: Vec<&'a str>,
}

impl<'a> Report<'a> {
    fn new(lines: &'a [Line]) -> Self {
        let mut report = Report {
            abouts: Vec::new(),
            samples: Vec::new(),
            totals: Vec::new(),
            loads: Vec::new(),
            strategies: Vec::new(),
        };
        for line in lines {
            let pair = match line {
                Line::About(about) => {
                    report.abouts.push(about);
                    continue;
                }
                Line::Sample(sample) => {
                    report.samples.push(sample);
                    &sample.pair
                }
                Line::Total(total) => {
                    report.totals.push(total);
                    &total.pair
                }
            };
            note(&mut report.loads, &pair.load);
            note(&mut report.strategies, &pair.strategy);
        }
        report
    }

    fn colour(&self, strategy: &str) -> u8 {
        let at = self.strategies.iter().position(|known| *known == strategy).unwrap_or(0);
        (at % 10) as u8
    }

    fn head(&self, page: &mut String) {
        let _ = write!(
            page,
            "<h1>Amplification by compaction strategy</h1>\n<p>Made by <code>engine-cli bench amplification</code> \
             (esker {}). Write amplification is bytes written to log, tables and manifest for each byte of keys and \
             values; space amplification is table bytes at rest for each byte that a scan returns; runs are what a \
             point read may have to ask.</p>\n",
            self.totals.first().map_or("", |total| &total.esker),
        );
        for About { commit, machine, command } in &self.abouts {
            let (commit, machine, command) = (escape(commit), escape(machine), escape(command));
            let _ = writeln!(page, "<p>Commit {commit}, {machine}: <code>{command}</code></p>");
        }
        page.push_str("<p class=\"legend\">");
        for strategy in &self.strategies {
            let colour = self.colour(strategy);
            let _ = write!(
                page,
                "<span><i style=\"background:var(--c{colour})\"></i>{}</span> ",
                escape(strategy)
            );
        }
        page.push_str("</p>\n");
    }

    /// What every load comes to: write against space, and stalls.
    fn overview(&self, page: &mut String) {
        page.push_str("<h2>Write, space and read at once</h2>\n<p>The size of a dot is the mean number of runs. \
                       Nearer to the lower left corner is better.</p>\n<div class=\"plots\">\n");
        for load in &self.loads {
            let of_load = self.totals.iter().filter(|total| total.pair.load == *load);
            let dots: Vec<Dot> = of_load
                .map(|total| Dot {
                    colour: self.colour(&total.pair.strategy),
                    at: (total.write_amplification, total.space_amplification),
                    radius: (3.0 + total.runs_mean.sqrt() * 1.5).clamp(4.0, 18.0),
                })
                .collect();
            let axes = Axes { x: "write amplification", y: "space amplification" };
            figure(page, &words(load), &plot::dots(axes, &dots));
        }
        page.push_str("</div>\n");
    }

    fn section(&self, load: &str, page: &mut String) {
        let _ = write!(page, "<h2>{}</h2>\n<div class=\"plots\">\n", escape(&words(load)));
        let write = |sample: &Sample| sample.written_bytes as f64 / sample.user_bytes.max(1) as f64;
        let seconds = |y| Axes { x: "seconds", y };
        let plots = [
            (
                "Write amplification over time",
                self.lines(seconds("written / user bytes"), load, write),
            ),
            (
                "Space over time",
                self.lines(seconds("MB in the directory"), load, |sample| {
                    sample.disk_bytes as f64 / 1e6
                }),
            ),
            (
                "Runs over time",
                self.lines(seconds("sorted runs"), load, |sample| sample.runs as f64),
            ),
            ("Time that the writer was stalled", self.stalls(load)),
        ];
        for (title, svg) in plots {
            figure(page, title, &svg);
        }
        page.push_str("</div>\n");
        self.table(load, page);
    }

    fn lines(&self, axes: Axes<'_>, load: &str, value: impl Fn(&Sample) -> f64) -> String {
        let series = self.strategies.iter().map(|strategy| {
            let of_pair = self.samples.iter().filter(|sample| is(&sample.pair, load, strategy));
            let of_pair: Vec<_> = of_pair.collect();
            // A ratio to the very first bytes is a spike that says nothing.
            let told_from = of_pair.last().map_or(0, |last| last.user_bytes / 100);
            let told = of_pair.iter().filter(|sample| sample.user_bytes > told_from);
            Series {
                colour: self.colour(strategy),
                points: told.map(|sample| (sample.seconds, value(sample))).collect(),
            }
        });
        plot::lines(axes, &series.collect::<Vec<_>>())
    }

    fn stalls(&self, load: &str) -> String {
        let of_load = self.totals.iter().filter(|total| total.pair.load == load);
        let bars: Vec<(u8, f64)> = of_load
            .map(|total| (self.colour(&total.pair.strategy), total.stall_ms / 1e3))
            .collect();
        plot::bars(Axes { x: "", y: "seconds" }, &bars)
    }

    fn table(&self, load: &str, page: &mut String) {
        page.push_str(
            "<div class=\"table\"><table>\n<tr><th>strategy<th>kops/s<th>p99.99 us<th>max us<th>write amp\
             <th>log<th>flush<th>compaction<th>space amp<th>peak MB<th>runs<th>most runs<th>blocks / get</tr>\n",
        );
        for total in self.totals.iter().filter(|total| total.pair.load == load) {
            let part = |bytes: u64| bytes as f64 / total.user_bytes.max(1) as f64;
            let _ = writeln!(
                page,
                "<tr><td>{}<td>{:.0}<td>{:.0}<td>{}<td>{:.2}<td>{:.2}<td>{:.2}<td>{:.2}<td>{:.2}<td>{:.0}<td>{}\
                 <td>{}<td>{:.2}</tr>",
                escape(&total.pair.strategy),
                total.kops,
                total.p9999us,
                total.maxus,
                total.write_amplification,
                part(total.wal_bytes),
                part(total.flush_bytes),
                part(total.compaction_bytes),
                total.space_amplification,
                total.disk_bytes_max as f64 / 1e6,
                total.runs,
                total.runs_max,
                total.blocks_per_get,
            );
        }
        page.push_str("</table></div>\n");
    }
}

fn is(pair: &Pair, load: &str, strategy: &str) -> bool {
    pair.load == load && pair.strategy == strategy
}

fn note<'a>(known: &mut Vec<&'a str>, name: &'a str) {
    if !known.contains(&name) {
        known.push(name);
    }
}

fn figure(page: &mut String, title: &str, svg: &str) {
    let _ = writeln!(page, "<figure><figcaption>{}</figcaption>{svg}</figure>", escape(title));
}

/// `a_name` as words.
fn words(name: &str) -> String {
    name.replace('_', " ")
}

/// Text that a file brought, safe in HTML.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = r#"{"line":"sample","load":"load","strategy":"<b>","seconds":1.0,"user_bytes":100,
        "written_bytes":250,"disk_bytes":400,"table_bytes":300,"runs":3,"stall_ms":0.5}"#;

    #[test]
    fn a_page_shows_every_pair_and_no_markup_of_its_input() {
        let total = r#"{"line":"total","load":"load","strategy":"<b>","esker":"1","operations":1,"seconds":1.0,
            "kops":1.0,"p50us":1.0,"p99us":1.0,"p999us":1.0,"p9999us":77.0,"maxus":1,"settle_seconds":0.0,
            "stall_ms":0.0,"user_bytes":100,"wal_bytes":110,"flush_bytes":100,"compaction_bytes":321,
            "manifest_bytes":1,"write_amplification":5.32,"table_bytes":100,"disk_bytes_max":1,"live_bytes":1,
            "space_amplification":1.25,"runs":3,"runs_max":4,"runs_mean":2.0,"blocks_per_get":1.0,
            "get_p50us":1.0}"#;
        let about = r#"{"line":"about","commit":"abc","machine":"2 cores","command":"x & y"}"#;
        let lines: Vec<Line> =
            [about, SAMPLE, total].iter().map(|text| serde_json::from_str(text).unwrap()).collect();
        let page = page(&lines);
        assert!(
            page.contains("<td>&lt;b&gt;<td>1<td>77<td>1<td>5.32<td>1.10<td>1.00<td>3.21<td>1.25"),
            "{page}"
        );
        assert!(!page.contains("<b>") && page.contains("abc, 2 cores: <code>x &amp; y</code>"));
        assert_eq!(page.matches("<svg").count(), 5);
    }
}
