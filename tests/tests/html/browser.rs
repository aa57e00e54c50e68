//! A browser that opens pages: Chromium without a screen, driven by `WebDriver`. It ends with the value that stands for it.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tempfile::TempDir;
use thirtyfour::{CapabilitiesHelper as _, ChromiumLikeCapabilities as _, DesiredCapabilities, WebDriver};

/// What chromedriver says when it listens, before the port.
const LISTENS: &str = "started successfully on port ";

/// A running browser.
pub(crate) struct Browser {
    /// The connection to it.
    pub(crate) driver: WebDriver,
    chromedriver: Child,
    _profile: TempDir,
}

impl Browser {
    /// Starts one, with a profile of its own.
    pub(crate) async fn start() -> Self {
        let mut chromedriver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // The browsers that it starts are of its group, so that they end with it.
            .process_group(0)
            .spawn()
            .expect("chromedriver of Debian's chromium-driver; `cargo xtask setup` installs it");
        let mut lines = BufReader::new(chromedriver.stdout.take().unwrap()).lines();
        let port = lines
            .find_map(|line| Some(line.unwrap().split_once(LISTENS)?.1.trim_end_matches('.').to_owned()))
            .expect("chromedriver says on which port it listens");
        let profile = tempfile::tempdir().unwrap();
        let mut wanted = DesiredCapabilities::chrome();
        for argument in [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            // What is clicked must not be on its way elsewhere.
            "--force-prefers-reduced-motion",
            "--window-size=1100,900",
        ] {
            wanted.add_arg(argument).unwrap();
        }
        wanted.add_arg(&format!("--user-data-dir={}", profile.path().display())).unwrap();
        wanted.set("goog:loggingPrefs", json!({ "browser": "ALL", "performance": "ALL" })).unwrap();
        let driver = WebDriver::new(format!("http://127.0.0.1:{port}"), wanted).await.unwrap();
        Self { driver, chromedriver, _profile: profile }
    }

    /// Opens a file.
    pub(crate) async fn open(&self, path: &Path) {
        self.driver.goto(format!("file://{}", path.display())).await.unwrap();
    }

    /// Runs a script in the page and gives what it returns.
    pub(crate) async fn run(&self, script: &str) -> Value {
        self.driver.execute(script, Vec::new()).await.unwrap().json().clone()
    }

    /// Waits until a script returns something true.
    pub(crate) async fn until(&self, condition: &str) {
        let script = format!(
            "const done = arguments[0]; const look = () => ({condition}) ? done(true) : requestAnimationFrame(look); look();"
        );
        self.driver.execute_async(&script, Vec::new()).await.unwrap_or_else(|error| panic!("{condition}: {error}"));
    }

    /// A command of the browser's own protocol.
    pub(crate) async fn command(&self, name: &str, parameters: Value) -> Value {
        self.driver.cdp().send_raw(name, parameters).await.unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Light or dark.
    pub(crate) async fn scheme(&self, scheme: &str) {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.command("Emulation.setEmulatedMedia", features).await;
    }

    /// The size of a screen in CSS pixels.
    pub(crate) async fn screen(&self, width: u32, height: u32) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": true });
        self.command("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    /// What the console has said since this was asked last.
    pub(crate) async fn complaints(&self) -> Vec<String> {
        let log = self.driver.get_log("browser").await.unwrap();
        log.into_iter().map(|entry| entry.message).collect()
    }

    /// What the page has asked for since this was asked last.
    pub(crate) async fn requests(&self) -> Vec<String> {
        let log = self.driver.get_log("performance").await.unwrap();
        log.iter()
            .map(|entry| serde_json::from_str::<Value>(&entry.message).unwrap())
            .filter(|entry| entry["message"]["method"] == "Network.requestWillBeSent")
            // The browser's own first page asks for parts of the browser.
            .filter(|entry| {
                !entry["message"]["params"]["documentURL"].as_str().is_some_and(|url| url.starts_with("chrome:"))
            })
            .filter_map(|entry| Some(entry["message"]["params"]["request"]["url"].as_str()?.to_owned()))
            .collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // All of it ends now; there is nobody left to say good-bye to.
        let _quit = self.driver.clone().leak();
        let group = Pid::from_child(&self.chromedriver);
        // It may have ended by itself; a browser that outlives the test would be somebody else's trouble.
        let _ended = kill_process_group(group, Signal::KILL);
        let _status = self.chromedriver.wait();
    }
}
