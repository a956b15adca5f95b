// A conversation with node-postgres, pg-cursor, pg-query-stream and pg-copy-streams, since their packages come without tests:
// one line for each part, with all that the client was told. `scripts/compat` holds what PostgreSQL says against what the
// SQL proxy says. A part that is lost, or hangs, has a line too.
//
// usage: node compat-node-postgres.js PORT (where node_modules is in the working directory)
"use strict";
const path = require("node:path");
const { createRequire } = require("node:module");
const { pipeline } = require("node:stream/promises");
const { Readable } = require("node:stream");

const load = createRequire(path.join(process.cwd(), "package.json"));
const pg = load("pg");
const Cursor = load("pg-cursor");
const QueryStream = load("pg-query-stream");
const copy = load("pg-copy-streams");

const PATIENCE_MS = 20_000;
const address = { host: "127.0.0.1", port: Number(process.argv[2]), user: "postgres", password: "postgres", database: "suite" };

// Of an error what an application looks at.
const told = ({ code, severity, message, detail, hint, position, table, column, constraint }) => ({
    code, severity, message, detail, hint, position, table, column, constraint,
});
const refused = async (promise) => {
    try {
        return { answered: await promise };
    } catch (error) {
        return { refused: told(error) };
    }
};
const brief = ({ command, rowCount, rows, fields }) => ({
    command, rowCount, rows, fields: fields.map(({ name, dataTypeID, format }) => [name, dataTypeID, format]),
});

async function connected(work, more = {}) {
    const client = new pg.Client({ ...address, ...more });
    const notices = [];
    client.on("notice", (notice) => notices.push(told(notice)));
    // Without a listener an error ends the process.
    client.on("error", (error) => notices.push(told(error)));
    await client.connect();
    try {
        return { answer: await work(client), notices };
    } finally {
        await client.end();
    }
}

// Each part with a client of its own, or by itself where it says so.
const parts = {
    "simple query": async (c) => brief(await c.query("SELECT 1 AS one, 'two' AS two, NULL AS three")),
    "several statements": async (c) => (await c.query("SELECT 1 AS a; SELECT 2 AS b; SELECT 3 AS c WHERE false")).map(brief),
    "an error among several statements": async (c) => [
        await refused(c.query("CREATE TABLE half (id int); SELECT 1/0; SELECT 1")),
        (await c.query("SELECT to_regclass('half') AS half")).rows,
    ],
    "empty query": async (c) => [brief(await c.query("")), brief(await c.query("-- nothing")), brief(await c.query({ text: "", values: [] }))],
    "no columns": async (c) => brief(await c.query("SELECT FROM generate_series(1, 3)")),
    "rows as arrays": async (c) => (await c.query({ text: "SELECT 1 AS a, 2 AS a, $1::text AS b", values: ["x"], rowMode: "array" })).rows,
    "binary results": async (c) => brief(await c.query({ text: "SELECT $1::int4 AS a, $2::text AS b, 1.5::float8 AS d", values: [7, "ü"], binary: true })),
    types: async (c) => brief(await c.query({
        text: "SELECT $1::int8 AS a, $2::numeric AS b, $3::json AS c, $4::jsonb AS d, $5::int[] AS e, $6::text[] AS f, $7::bytea AS g, $8::timestamptz AS h, $9::bool AS i, $10::text AS j, interval '1 day 2 hours' AS k, point(1, 2) AS l",
        values: ["9007199254740993", "1.10", { a: [1] }, JSON.stringify([1, { b: null }]), [1, 2, null], ["a", 'b"c', null, "d,e"], Buffer.from([0, 1, 255]), new Date(0), true, null],
    })),
    "a statement with a name": async (c) => {
        const seen = [];
        for (let i = 0; i < 5; i += 1) seen.push((await c.query({ name: "named", text: "SELECT $1::int + 1 AS n", values: [i] })).rows[0].n);
        return seen;
    },
    "a name with another text": async (c) => {
        await c.query({ name: "once", text: "SELECT 1 AS n" });
        return [await refused(c.query({ name: "once", text: "SELECT 2 AS n" })), (await c.query({ name: "once", text: "SELECT 1 AS n" })).rows];
    },
    "a statement that cannot be prepared": async (c) => [
        await refused(c.query({ name: "bad", text: "SELECT nothing_of_the_sort" })),
        await refused(c.query({ name: "bad", text: "SELECT nothing_of_the_sort" })),
        (await c.query({ name: "bad", text: "SELECT 1 AS good" })).rows,
    ],
    "a value that does not fit": async (c) => {
        const query = (value) => c.query({ name: "fits", text: "SELECT $1::int AS n", values: [value] });
        return [await refused(query("one")), (await query("1")).rows];
    },
    "too few values": async (c) => [await refused(c.query("SELECT $1::int, $2::int", [1])), (await c.query("SELECT 1 AS n")).rows],
    "DEALLOCATE ALL behind a name": async (c) => {
        const query = () => c.query({ name: "gone", text: "SELECT 5 AS n" });
        await query();
        await c.query("DEALLOCATE ALL");
        return refused(query());
    },
    "DISCARD ALL": async (c) => {
        await c.query("SET work_mem = '5MB'");
        const before = (await c.query("SHOW work_mem")).rows;
        await c.query("DISCARD ALL");
        return [before, (await c.query("SHOW work_mem")).rows];
    },
    settings: async (c) => {
        await c.query("SET search_path = pg_catalog; SET TimeZone = 'Asia/Tokyo'; SET statement_timeout = '3s'");
        await c.query("BEGIN; SET LOCAL statement_timeout = '1s'; COMMIT");
        const rows = [];
        for (const name of ["search_path", "TimeZone", "statement_timeout"]) rows.push((await c.query(`SHOW ${name}`)).rows[0]);
        return rows;
    },
    "a setting that is rolled back": async (c) => {
        await c.query("SET work_mem = '6MB'");
        await c.query("BEGIN");
        await c.query("SET work_mem = '7MB'");
        await c.query("ROLLBACK");
        return (await c.query("SHOW work_mem")).rows;
    },
    "a transaction that fails": async (c) => {
        await c.query("BEGIN");
        const seen = [await refused(c.query("SELECT 1/0")), await refused(c.query("SELECT 1")), await refused(c.query("SELECT $1::int", [1]))];
        seen.push((await c.query("COMMIT")).command, (await c.query("SELECT 1 AS after")).rows);
        return seen;
    },
    savepoints: async (c) => {
        await c.query("BEGIN; CREATE TEMP TABLE saved (id int PRIMARY KEY) ON COMMIT DROP; INSERT INTO saved VALUES (1)");
        await c.query("SAVEPOINT one");
        const error = await refused(c.query("INSERT INTO saved VALUES ($1)", [1]));
        await c.query("ROLLBACK TO SAVEPOINT one");
        const { rows } = await c.query("SELECT * FROM saved");
        await c.query("COMMIT");
        return [error, rows];
    },
    "errors with their fields": async (c) => {
        await c.query("CREATE TABLE checked (id int PRIMARY KEY, n int NOT NULL CONSTRAINT positive CHECK (n > 0))");
        const insert = (values) => refused(c.query("INSERT INTO checked VALUES ($1, $2)", values).then(brief));
        return [await insert([1, 1]), await insert([1, 2]), await insert([2, 0]), await insert([3, null]), await refused(c.query("SELECT * FROM chcked"))];
    },
    notices: async (c) => {
        await c.query("DO $$ BEGIN RAISE NOTICE 'seen %', 1; RAISE WARNING 'and' USING DETAIL = 'more', HINT = 'and more'; END $$");
        return (await c.query("SET client_min_messages = error; DO $$ BEGIN RAISE WARNING 'unseen'; END $$; SELECT 1 AS n")).map(({ command }) => command);
    },
    "warnings of transactions": async (c) => {
        const commands = [];
        for (const text of ["COMMIT", "ROLLBACK", "BEGIN", "BEGIN", "COMMIT"]) commands.push((await c.query(text)).command);
        return commands;
    },
    "many queries at once": async (c) => {
        const queries = Array.from({ length: 200 }, (_, i) => refused(c.query(i % 50 === 49 ? "SELECT 1/0" : { text: "SELECT $1::int AS n", values: [i], name: i % 3 ? "" : "at-once" })));
        return (await Promise.all(queries)).map(({ answered, refused: error }) => answered?.rows[0].n ?? error.code);
    },
    "a large value there and back": async (c) => {
        const value = "ü".repeat(1_500_000);
        const { rows } = await c.query("SELECT $1::text AS value, length($1::text) AS length", [value]);
        return [rows[0].value === value, rows[0].length];
    },
    "many values": async (c) => {
        const values = Array.from({ length: 30_000 }, (_, i) => i);
        return (await c.query(`SELECT sum(n)::text FROM unnest(ARRAY[${values.map((_, i) => `$${i + 1}::int`).join()}]) AS n`, values)).rows;
    },
    "a large result": async (c) => {
        const { rows } = await c.query("SELECT n, repeat('x', 100) AS x FROM generate_series(1, 100000) AS n");
        return [rows.length, rows.at(-1).n];
    },
    "rows in pieces by the protocol": async (c) => (await c.query({ text: "SELECT n FROM generate_series(1, 10) AS n", values: [], rows: 3 })).rows.map(({ n }) => n),
    "a cursor to its end": async (c) => {
        const cursor = c.query(new Cursor("SELECT n FROM generate_series(1, $1::int) AS n", [10]));
        const lengths = [];
        for (let rows = await cursor.read(4); rows.length > 0; rows = await cursor.read(4)) lengths.push(rows.map(({ n }) => n));
        return [lengths, (await c.query("SELECT 'after' AS cursor")).rows];
    },
    "a cursor that is closed early": async (c) => {
        const cursor = c.query(new Cursor("SELECT n FROM generate_series(1, 1000) AS n"));
        const rows = await cursor.read(2);
        await cursor.close();
        return [rows, (await c.query("SELECT 'after' AS cursor")).rows];
    },
    "a cursor in a transaction": async (c) => {
        await c.query("BEGIN");
        const cursor = c.query(new Cursor("SELECT n FROM generate_series(1, 5) AS n"));
        const first = await cursor.read(2);
        await cursor.close();
        const between = (await c.query("SELECT 1 AS between")).rows;
        await c.query("COMMIT");
        return [first, between];
    },
    "a cursor that fails on its way": async (c) => {
        const cursor = c.query(new Cursor("SELECT 10 / (5 - n) AS n FROM generate_series(1, 10) AS n"));
        const seen = [await refused(cursor.read(3)), await refused(cursor.read(3))];
        return [seen, (await c.query("SELECT 'after' AS cursor")).rows];
    },
    "a cursor whose statement is wrong": async (c) => [
        await refused(c.query(new Cursor("SELECT nothing_there")).read(1)), (await c.query("SELECT 'after' AS cursor")).rows,
    ],
    "SQL cursors": async (c) => {
        await c.query("BEGIN; DECLARE one CURSOR FOR SELECT n FROM generate_series(1, 5) AS n");
        const rows = (await c.query("FETCH 2 FROM one")).rows;
        await c.query("MOVE 1 FROM one");
        return [rows, (await c.query("FETCH ALL FROM one")).rows, (await c.query("COMMIT")).command];
    },
    "a stream of rows": async (c) => {
        let sum = 0;
        for await (const { n } of c.query(new QueryStream("SELECT n FROM generate_series(1, 5000) AS n", [], { batchSize: 64 }))) sum += n;
        return sum;
    },
    "a stream that is left early": async (c) => {
        const seen = [];
        for await (const { n } of c.query(new QueryStream("SELECT n FROM generate_series(1, 5000) AS n", [], { batchSize: 8 }))) {
            if (seen.push(n) === 3) break;
        }
        return [seen, (await c.query("SELECT 'after' AS stream")).rows];
    },
    "copies in and out": async (c) => {
        await c.query("CREATE TABLE copied (id int, words text)");
        const lines = Array.from({ length: 20_000 }, (_, i) => `${i}\twords ${i}\n`);
        const sent = c.query(copy.from("COPY copied FROM STDIN"));
        await pipeline(Readable.from(lines), sent);
        const read = c.query(copy.to("COPY (SELECT * FROM copied ORDER BY id) TO STDOUT"));
        const pieces = [];
        for await (const piece of read) pieces.push(piece);
        return [sent.rowCount, read.rowCount, Buffer.concat(pieces).toString() === lines.join(""), (await c.query("SELECT count(*) FROM copied")).rows];
    },
    "a copy with a line that is wrong": async (c) => {
        await c.query("BEGIN; CREATE TEMP TABLE lines (id int) ON COMMIT DROP");
        const error = await refused(pipeline(Readable.from(["1\n", "two\n", "3\n"]), c.query(copy.from("COPY lines FROM STDIN"))));
        return [error, (await c.query("ROLLBACK")).command, (await c.query("SELECT 'after' AS copy")).rows];
    },
    "a copy that the client gives up": async (c) => {
        await c.query("CREATE TABLE given (id int)");
        const sent = c.query(copy.from("COPY given FROM STDIN"));
        const error = new Promise((resume) => sent.on("error", (of) => resume(told(of))));
        sent.write("1\n");
        sent.destroy(new Error("given up"));
        return [await error, (await c.query("SELECT count(*) FROM given")).rows];
    },
    "a copy that cannot begin": async (c) => [
        await refused(pipeline(Readable.from(["1\n"]), c.query(copy.from("COPY no_such_table FROM STDIN")))), (await c.query("SELECT 'after' AS copy")).rows,
    ],
    notifications: async (c) => {
        const heard = [];
        c.on("notification", ({ channel, payload }) => heard.push([channel, payload]));
        await c.query("LISTEN news; LISTEN \"Other News\"");
        await connected((other) => other.query("NOTIFY news, 'one'; SELECT pg_notify('Other News', 'two'); NOTIFY unheard"));
        await c.query("BEGIN");
        await c.query("NOTIFY news, 'of my own'");
        await c.query("COMMIT");
        while (heard.length < 3) await new Promise((resume) => setTimeout(resume, 20));
        await c.query("UNLISTEN *");
        await connected((other) => other.query("NOTIFY news, 'behind the end'"));
        await c.query("SELECT 1");
        return heard.sort();
    },
    "a request to cancel": async (c) => {
        const query = new pg.Query("SELECT pg_sleep(15)");
        const answer = refused(new Promise((done, failed) => {
            query.callback = (error, result) => (error ? failed(error) : done(brief(result)));
        }));
        c.query(query);
        await new Promise((resume) => setTimeout(resume, 500));
        new pg.Client(address).cancel(c, query);
        return [await answer, (await c.query("SELECT 'after' AS cancel")).rows];
    },
    "statement_timeout": async (c) => {
        await c.query("SET statement_timeout = 200");
        return [await refused(c.query("SELECT pg_sleep(10)")), (await c.query("SELECT 'after' AS timeout")).rows];
    },
    "a temporary table": async (c) => {
        await c.query("CREATE TEMP TABLE mine (id int)");
        await c.query("INSERT INTO mine VALUES (1), (2)");
        return (await c.query("SELECT count(*) FROM mine")).rows;
    },
    "an advisory lock": async (c) => [
        (await c.query("SELECT pg_try_advisory_lock(42) AS locked")).rows, (await c.query("SELECT pg_advisory_unlock(42) AS unlocked")).rows,
    ],
    "a sequence": async (c) => {
        await c.query("CREATE SEQUENCE numbers");
        await c.query("SELECT nextval('numbers')");
        return refused(c.query("SELECT currval('numbers') AS n").then(({ rows }) => rows));
    },
    "PREPARE and EXECUTE": async (c) => {
        await c.query("PREPARE mine (int) AS SELECT $1 * 2 AS n");
        const seen = [(await c.query("EXECUTE mine(21)")).rows, (await c.query("EXECUTE mine(4)")).rows];
        await c.query("DEALLOCATE mine");
        return [seen, await refused(c.query("EXECUTE mine(1)"))];
    },
    "a table that changes under a name": async (c) => {
        await c.query("CREATE TABLE changing (id int); INSERT INTO changing VALUES (1)");
        const query = () => c.query({ name: "changes", text: "SELECT * FROM changing" });
        await query();
        await c.query("ALTER TABLE changing ADD COLUMN more text");
        return refused(query().then(brief));
    },
};

const show = async (name) => (await connected(async (c) => (await c.query(`SHOW ${name}`)).rows)).answer;
const alone = {
    "parameters of the login": () => connected(
        async (c) => {
            const rows = [];
            for (const name of ["application_name", "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "work_mem", "client_encoding"]) {
                rows.push((await c.query(`SHOW ${name}`)).rows[0]);
            }
            return rows;
        },
        { application_name: "node", statement_timeout: 5000, lock_timeout: 4000, idle_in_transaction_session_timeout: 3000, options: "-c work_mem=9MB" },
    ),
    "nothing is left of another's settings": async () => {
        await connected((c) => c.query("SET work_mem = '11MB'; SET search_path = nowhere"));
        return [await show("work_mem"), await show("search_path")];
    },
    "a wrong password": () => refused(connected(() => null, { password: "wrong" })),
    "an unknown database": () => refused(connected(() => null, { database: "nowhere" })),
    "an unknown user": () => refused(connected(() => null, { user: "nobody_at_all" })),
    "TLS where there is none": () => refused(connected(() => null, { ssl: { rejectUnauthorized: false } })),
    "a pool": async () => {
        const pool = new pg.Pool({ ...address, max: 40 });
        const work = Array.from({ length: 400 }, async (_, i) => {
            const { rows } = await pool.query({ name: `of-${i % 7}`, text: `SELECT $1::int + ${i % 7} AS n`, values: [i] });
            return rows[0].n === i + (i % 7);
        });
        const right = (await Promise.all(work)).every(Boolean);
        await pool.end();
        return right;
    },
    "transfers in transactions by a pool": async () => {
        await connected((c) => c.query("CREATE TABLE accounts (id int PRIMARY KEY, n int); INSERT INTO accounts SELECT g, 100 FROM generate_series(0, 9) AS g"));
        const pool = new pg.Pool({ ...address, max: 30 });
        await Promise.all(Array.from({ length: 200 }, async (_, i) => {
            const client = await pool.connect();
            const [from, to] = [i % 10, (i * 7 + 3) % 10].sort();
            await client.query("BEGIN");
            await client.query({ name: "take", text: "UPDATE accounts SET n = n - 1 WHERE id = $1", values: [from] });
            await client.query({ name: "give", text: "UPDATE accounts SET n = n + 1 WHERE id = $1", values: [to] });
            await client.query(i % 4 ? "COMMIT" : "ROLLBACK");
            client.release();
        }));
        const { rows } = await pool.query("SELECT sum(n)::int AS sum, array_agg(n ORDER BY id) AS each FROM accounts");
        await pool.end();
        return rows;
    },
    "an end with queries before it": async () => {
        const client = new pg.Client(address);
        await client.connect();
        const queries = [client.query("SELECT pg_sleep(0.1), 1 AS n"), client.query("SELECT 2 AS n")].map((query) => refused(query.then(brief)));
        await client.end();
        return Promise.all(queries);
    },
};

const late = () => new Promise((_, failed) => setTimeout(() => failed(new Error(`no answer in ${PATIENCE_MS} ms`)), PATIENCE_MS).unref());

async function main() {
    // What a run before this one has left.
    await connected((c) => c.query("SET client_min_messages = error; DROP TABLE IF EXISTS accounts, changing, checked, copied, given; DROP SEQUENCE IF EXISTS numbers"));
    const all = Object.entries(parts).map(([name, part]) => [name, () => connected(part)]).concat(Object.entries(alone));
    for (const [name, part] of all) {
        let line;
        try {
            line = await Promise.race([part(), late()]);
        } catch (error) {
            line = { lost: told(error) };
        }
        console.log(`${name}: ${JSON.stringify(line)}`);
    }
    // A part that hangs has a client still.
    process.exit(0);
}

main();
