import os

from flask import Flask, jsonify

app = Flask(__name__)


@app.get("/")
def index():
    return f"Hello from {os.environ.get('GREETING', 'Flask')}\n"


@app.get("/healthz")
def healthz():
    return jsonify(ok=True)


@app.get("/env-names")
def env_names():
    # Names only: values of variables can be secrets.
    return jsonify(sorted(os.environ))


if __name__ == "__main__":
    app.run(host="0.0.0.0", port=int(os.environ.get("PORT", "5000")))
