// Two WebSockets by `ws`, which do as each line of the standard input says; each answers with a line of its own. They send a
// Ping every 20 ms. Neither connects again.
const fs = require("fs");
const readline = require("readline");
const WebSocket = require("ws");

const [url, authority] = process.argv.slice(2);
const TEXT = "grüß dich, 世界 😀 ".repeat(5000);
let closing = false;

class Client {
  constructor(path) {
    this.socket = new WebSocket(url + path, { ca: fs.readFileSync(authority) });
    this.messages = [];
    this.waiting = [];
    this.pings = new Map();
    this.socket.on("message", (data, isBinary) => {
      const message = isBinary ? data : data.toString();
      const next = this.waiting.shift();
      next ? next(message) : this.messages.push(message);
    });
    this.socket.on("pong", (data) => {
      this.pings.get(data.toString())();
      this.pings.delete(data.toString());
    });
    this.socket.on("close", (code) => {
      if (!closing) throw new Error("closed: " + code);
    });
  }

  async open() {
    await new Promise((done) => this.socket.once("open", done));
    this.timer = setInterval(() => this.ping(), 20);
    return this;
  }

  next() {
    if (this.messages.length) return Promise.resolve(this.messages.shift());
    return new Promise((done) => this.waiting.push(done));
  }

  ask(message) {
    this.socket.send(message);
    return this.next();
  }

  ping() {
    const name = "ping " + (this.sent = (this.sent || 0) + 1);
    return new Promise((done) => {
      this.pings.set(name, done);
      this.socket.ping(name);
    });
  }

  close() {
    clearInterval(this.timer);
    closing = true;
    return new Promise((done) => {
      this.socket.once("close", done);
      this.socket.close(1000);
    });
  }
}

const obey = async (line, echo, count) => {
  switch (line) {
    case "count":
      return await count.ask("any");
    case "pid":
      return await echo.ask("pid");
    case "ping":
      await Promise.all([echo.ping(), count.ping()]);
      return "pong";
    case "echo": {
      const same = [(await echo.ask(TEXT)) === TEXT, (await echo.ask("")) === ""];
      for (const bytes of [Buffer.from(TEXT), Buffer.alloc(0)]) {
        const answer = await echo.ask(bytes);
        same.push(Buffer.isBuffer(answer) && answer.equals(bytes));
      }
      return same.every(Boolean) ? "same" : "other";
    }
    case "begin":
      for (const fragment of ["one ", "", "zwölf "]) echo.socket.send(fragment, { fin: false });
      await echo.ping();
      return "begun";
    case "end":
      return (await echo.ask("three")) === "one zwölf three" ? "same" : "other";
    case "close":
      return `${await echo.close()} ${await count.close()}`;
    default:
      throw new Error(line);
  }
};

(async () => {
  const echo = await new Client("/ws").open();
  const count = await new Client("/ws/count").open();
  for await (const line of readline.createInterface({ input: process.stdin })) {
    console.log(await obey(line, echo, count));
  }
})();
