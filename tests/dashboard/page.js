// Opens views of the published dashboard in Chromium; prints, as JSON, what each shows and what went wrong. It stops at
// the first in which something did.
//
//     node page.js BROWSER FOLDER FRAGMENT...
//
// FOLDER is what `asv publish` wrote, a FRAGMENT what follows `index.html#`. No request leaves the browser: it gets the
// files of FOLDER as they are, with one change to index.html (below), the libraries that index.html loads from elsewhere
// out of npm packages, and "not found" for everything else.

"use strict";

const fs = require("node:fs");
const path = require("node:path");
const { chromium } = require("playwright-core");

const SITE = "http://dashboard.test";

// What index.html loads from elsewhere, by the ends of the addresses, and the same file in an npm package.
const LIBRARIES = {
  "/jquery-3.3.1.min.js": "jquery/dist/jquery.min.js",
  "/flot/0.8.3/jquery.flot.min.js": "flot/jquery.flot.js",
  "/flot/0.8.3/jquery.flot.time.min.js": "flot/jquery.flot.time.js",
  "/flot/0.8.3/jquery.flot.selection.min.js": "flot/jquery.flot.selection.js",
  "/flot/0.8.3/jquery.flot.categories.min.js": "flot/jquery.flot.categories.js",
  "/flot-orderbars@1.0.0/js/jquery.flot.orderBars.js": "flot-orderbars/js/jquery.flot.orderBars.js",
  "/stupidtable/1.0.1/stupidtable.min.js": "stupid-table-plugin/stupidtable.min.js",
  "/blueimp-md5/2.19.0/js/md5.min.js": "blueimp-md5/js/md5.min.js",
  "/bootstrap@3.1.1/dist/js/bootstrap.min.js": "bootstrap/dist/js/bootstrap.min.js",
  "/bootstrap@3.1.1/dist/css/bootstrap.min.css": "bootstrap/dist/css/bootstrap.min.css",
};

// The one change: npm has flot 0.8.3 not minified, and of stupidtable only 1.1.3, not 1.0.1; these two lose their
// `integrity`. The other libraries are the very bytes that index.html asks for, and the browser checks that they are.
const OTHER_BYTES = /(src="[^"]*\/(?:flot|stupidtable)\/[^"]*") integrity="[^"]*"/g;

/** The file that answers a request, or undefined. */
function fileFor(url, folder) {
  if (url.origin === SITE) {
    const file = path.join(folder, decodeURIComponent(url.pathname));
    return fs.existsSync(file) ? file : undefined;
  }
  const library = Object.keys(LIBRARIES).find((end) => url.pathname.endsWith(end));
  try {
    return library && require.resolve(LIBRARIES[library]);
  } catch {
    return undefined; // not installed
  }
}

async function answer(route, folder) {
  const file = fileFor(new URL(route.request().url()), folder);
  if (!file) {
    return route.fulfill({ status: 404 });
  }
  if (path.basename(file) === "index.html") {
    const body = fs.readFileSync(file, "utf8").replace(OTHER_BYTES, "$1");
    return route.fulfill({ body, contentType: "text/html" });
  }
  return route.fulfill({ path: file, headers: { "access-control-allow-origin": "*" } });
}

/** Runs inside the page: what its reader sees, or null as long as that is nothing or something is still to come. */
function shown() {
  if (window.jQuery?.active !== 0) {
    return null; // so many of its requests are under way
  }
  const visible = (selector) => [...document.querySelectorAll(selector)].filter((e) => e.getClientRects().length);
  const links = visible(["#summarygrid-display a", "#summarylist-body a", "#regressions-body a"].join());
  const plot = jQuery("#main-graph:visible").data("plot");
  if (!links.length && !plot) {
    return null;
  }
  const series = plot ? plot.getData().map(({ data }) => data.filter(([, y]) => y !== null).length) : [];
  let coloured = 0; // pixels of the graph that are neither blank nor grey, as axes and grid are
  for (const canvas of visible("#main-graph canvas.flot-base")) {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    for (let i = 0; i < data.length; i += 4) {
      const colour = data.slice(i, i + 3);
      coloured += data[i + 3] > 128 && Math.max(...colour) - Math.min(...colour) > 64;
    }
  }
  const title = document.querySelector("#title").textContent;
  return { title, links: links.map((link) => link.getAttribute("href")), series, coloured };
}

async function open(browser, folder, fragment) {
  const page = await browser.newPage();
  const errors = [];
  page.on("console", (message) => message.type() === "error" && errors.push(`console: ${message.text()}`));
  page.on("pageerror", (error) => errors.push(`exception: ${error.message}`));
  page.on("requestfailed", (request) => errors.push(`${request.failure().errorText}: ${request.url()}`));
  page.on("response", (response) => response.status() >= 400 && errors.push(`${response.status()}: ${response.url()}`));
  await page.route("**", (route) => answer(route, folder));
  await page.goto(`${SITE}/index.html#${fragment}`);
  const seen = await page.waitForFunction(shown, null, { timeout: 10_000 }).catch(() => null);
  if (!seen) {
    errors.push("nothing is shown");
  }
  const view = seen && (await seen.jsonValue());
  await page.close();
  return { ...view, errors };
}

async function main(executablePath, folder, ...fragments) {
  const browser = await chromium.launch({ executablePath, args: ["--disable-gpu", "--disable-quic"] });
  try {
    const views = [];
    for (const fragment of fragments) {
      views.push(await open(browser, folder, fragment));
      if (views.at(-1).errors.length) {
        break;
      }
    }
    console.log(JSON.stringify(views));
  } finally {
    await browser.close();
  }
}

main(...process.argv.slice(2));
