import os

from fastapi import FastAPI

app = FastAPI(title="Harbour")


@app.get("/")
def index() -> dict[str, str]:
    return {"message": f"Hello from {os.environ.get('GREETING', 'FastAPI')}"}


@app.get("/healthz")
def healthz() -> dict[str, bool]:
    return {"ok": True}
