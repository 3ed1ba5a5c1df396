// Calls `main` of a program, in its sandbox: this text is what Node runs there. As runner.py, for the other language.
const fs = require("fs");
const [, target, limit] = process.argv;
process.argv.length = 1;

function fail(words) {
  console.error(words);
  process.exit(1);
}

async function call() {
  try {
    const loaded = require(`${process.cwd()}/main.js`);
    const main = typeof loaded === "function" ? loaded : loaded.main;
    if (typeof main !== "function") fail("Error: main.js defines no function main");
    return await main(JSON.parse(fs.readFileSync("args.json", "utf8")));
  } catch (error) {
    fail(error);
  }
}

call().then((value) => {
  if (value === undefined) fail("Error: main() must return a value; null stands for none");
  let text;
  try {
    text = JSON.stringify(value);
  } catch (error) {
    fail(`Error: main() returned a value that is not JSON: ${error.message}`);
  }
  if (text === undefined) fail("Error: main() returned a value that is not JSON");
  const size = Buffer.byteLength(text);
  if (size > Number(limit)) fail(`Error: main() returned ${size} bytes of JSON, of which ${limit} are accepted`);
  fs.writeFileSync(target, text, { flag: "wx" });
});
