// Two WebSockets and an EventSource of a page. `ask` does as it is asked, as the clients beside this file do on their lines.
const url = location.origin.replace("http", "ws");
const TEXT = "grüß dich, 世界 😀 ".repeat(5000);
const LONG = "long ".repeat(400000);
window.problems = [];

class Client {
  constructor(path) {
    this.socket = new WebSocket(url + path);
    this.socket.binaryType = "arraybuffer";
    this.messages = [];
    this.waiting = [];
    this.opened = new Promise((done) => (this.socket.onopen = done));
    this.closed = new Promise((done) => {
      this.socket.onclose = (event) => {
        if (!this.closing) problems.push(`${path} is closed: ${event.code}`);
        done(event.code);
      };
    });
    this.socket.onerror = () => problems.push(`${path} has failed`);
    this.socket.onmessage = (event) => {
      const next = this.waiting.shift();
      next ? next(event.data) : this.messages.push(event.data);
    };
  }

  next() {
    if (this.messages.length) return Promise.resolve(this.messages.shift());
    return new Promise((done) => this.waiting.push(done));
  }

  ask(message) {
    this.socket.send(message);
    return this.next();
  }

  close() {
    this.closing = true;
    this.socket.close(1000);
    return this.closed;
  }
}

const echo = new Client("/ws");
const count = new Client("/ws/count");

const events = new EventSource("/events/travel?ms=5");
let [opens, lastId] = [0, 0];
let arrived = () => {};
events.onopen = () => {
  opens += 1;
  if (opens > 1) problems.push("a second request for events");
};
events.onerror = () => problems.push("the events have ended");
events.onmessage = (event) => {
  if (+event.lastEventId !== lastId + 1) problems.push(`event ${event.lastEventId} after ${lastId}`);
  lastId = +event.lastEventId;
  arrived(event.data);
};

window.ask = async (line) => {
  await Promise.all([echo.opened, count.opened]);
  switch (line) {
    case "count":
      return await count.ask("any");
    case "pid":
      return await echo.ask("pid");
    case "event":
      return await new Promise((done) => (arrived = done));
    case "echo": {
      const same = [(await echo.ask(TEXT)) === TEXT, (await echo.ask("")) === ""];
      const bytes = await echo.ask(new Uint8Array([0, 255, 7]));
      return same.every(Boolean) && new Uint8Array(bytes).join() === "0,255,7" ? "same" : "other";
    }
    case "begin":
      echo.socket.send(LONG);
      return "begun";
    case "end":
      return (await echo.next()) === LONG ? "same" : "other";
    case "close":
      return `${await echo.close()} ${await count.close()}`;
  }
};
