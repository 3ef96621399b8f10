"""In a real browser: JupyterLab runs the notebooks, and a slider that is moved changes its figure.

Debian's chromium and chromium-driver are used where they are installed; nothing is downloaded.
Screenshots are kept in pytest's temporary folder: `pytest tests/widgets/test_browser.py
--basetemp=screenshots`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from longrope_lab.runs import notebooks as runs

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
PATIENCE = 200  # seconds; a busy machine may take a minute to start a kernel

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="no chromium here: apt-get install chromium chromium-driver",
)


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """JupyterLab with nothing of the user's: its address, and its folder of notebooks."""
    root = tmp_path_factory.mktemp("jupyter")
    folders = {"JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR",
               "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR",
               "LONGROPE_LAB_CACHE"}  # fmt: skip
    (root / "notebooks").mkdir()
    settings = root / "JUPYTERLAB_SETTINGS_DIR" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    quiet = {"fetchNews": "false", "checkForUpdates": False}
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(quiet))
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
               "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0", "--IdentityProvider.token=test",
               "--LabApp.expose_app_in_browser=True",
               f"--ServerApp.root_dir={root / 'notebooks'}"]  # fmt: skip
    with (root / "log").open("w") as log:
        environment = os.environ | {name: str(root / name) for name in folders}
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield address(server, root), root / "notebooks"
        finally:
            server.terminate()
            server.wait(30)


def address(server: subprocess.Popen[bytes], root: Path) -> str:
    """Where the server listens, once it says so; it picks a free port."""

    def said(_: object) -> str | None:
        assert server.poll() is None, (root / "log").read_text()
        for path in (root / "JUPYTER_RUNTIME_DIR").glob("jpserver-*.json"):
            if text := path.read_text():
                return str(json.loads(text)["url"])
        return None

    return str(WebDriverWait(None, PATIENCE, 0.1).until(said))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium without a window."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = tmp_path_factory.mktemp("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage",
                     "--no-proxy-server", "--window-size=1440,900",
                     f"--user-data-dir={profile}"):  # fmt: skip
        options.add_argument(argument)
    driver = webdriver.Chrome(
        options=options, service=webdriver.ChromeService(executable_path=DRIVER)
    )
    yield driver
    driver.quit()


def wait(browser, condition, message):
    # What is drawn anew between being found and being read is looked for again.
    redrawn = [StaleElementReferenceException]
    return WebDriverWait(browser, PATIENCE, 0.1, redrawn).until(condition, message)


def run_all(browser, jupyter, name, further=(), **parameters):
    """Open a copy of a notebook with other parameters and further cells, and run all its cells.

    Cells that write files are left out; nothing here reads them.
    """
    url, folder = jupyter
    notebook = load_notebook_node(str(runs.find_notebook(name)))
    defaults = runs.profile_parameters(runs.find_notebook(name), "smoke")
    notebook = parameterize_notebook(
        notebook, {**defaults, **parameters, "out": str(folder / "results")}
    )
    notebook.cells = [cell for cell in notebook.cells if "lab.record(" not in cell.source]
    notebook.cells += [nbformat.v4.new_code_cell(source) for source in further]
    nbformat.write(notebook, folder / f"{name}.ipynb")
    browser.get(f"{url}lab/tree/{name}.ipynb?token=test&reset")
    ready = """
        const panel = window.jupyterapp?.shell.currentWidget;
        const kernel = panel?.sessionContext.session?.kernel;
        return panel?.context?.isReady && kernel?.connectionStatus === "connected";
    """
    wait(browser, lambda b: b.execute_script(ready), f"{name} does not open")
    browser.execute_script("""
        window.jupyterapp.commands.execute("notebook:run-all-cells").then(
            all => { window.ran = String(all); }, error => { window.ran = String(error); });
    """)
    finished = wait(
        browser, lambda b: b.execute_script("return window.ran"), f"{name} does not come to an end"
    )
    errors = browser.execute_script("""
        const cells = window.jupyterapp.shell.currentWidget.context.model.toJSON().cells;
        const outputs = cells.flatMap(cell => cell.outputs || []);
        return outputs.filter(o => o.output_type === "error").map(o => o.evalue);
    """)
    assert (finished, errors) == ("true", [])


def ask(browser, expression):
    """What an expression gives in the notebook's kernel, after everything sent to it before."""
    return browser.execute_async_script(
        """
        const [expression, done] = arguments;
        const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
        kernel.requestExecute({code: "", user_expressions: {it: expression}}).done.then(
            reply => done(reply.content.user_expressions.it.data["text/plain"]));
        """,
        expression,
    )


def show_cell(browser, source, align="start"):
    """Scroll to the cell with these words in its source, and return its element."""
    place = browser.execute_script(
        """
        const notebook = window.jupyterapp.shell.currentWidget.content;
        const place = notebook.widgets.findIndex(
            cell => cell.model.sharedModel.source.includes(arguments[0]));
        notebook.activeCellIndex = place;
        notebook.scrollToItem(place, arguments[1]);
        return place;
        """,
        source,
        align,
    )
    assert place >= 0, f"no cell with {source}"
    selector = f'.jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell[data-windowed-list-index="{place}"]'
    return wait(
        browser, lambda b: b.find_elements(By.CSS_SELECTOR, selector), f"cell {place} is not shown"
    )[0]


def picture(browser, cell):
    """The source of a cell's figure, once it is loaded."""
    loaded = """
        const image = arguments[0].querySelector("img.widget-image");
        return image && image.complete && image.naturalWidth > 0 ? image.src : null;
    """
    return wait(browser, lambda b: b.execute_script(loaded, cell), "the figure does not load")


def slider(cell, name):
    """The handle of the slider with this label."""
    of_name = f".//div[contains(@class, 'widget-slider')][label[normalize-space()='{name}']]"
    return cell.find_element(By.XPATH, f"{of_name}//*[@role='slider']")


def move(browser, cell, name, keys):
    """Move a slider with the keyboard; the figure must change."""
    before, handle = picture(browser, cell), slider(cell, name)
    browser.execute_script("arguments[0].focus()", handle)
    handle.send_keys(keys)
    wait(browser, lambda b: picture(b, cell) != before, f"{name} moved and the figure is the same")


def fits(browser, cell):
    """Whether a cell and its explorer can be seen at once: the room left, in dots."""
    there = "return arguments[0].querySelector('.longrope-lab-explorer') !== null"
    wait(browser, lambda b: b.execute_script(there, cell), "no explorer in the cell")
    room = browser.execute_script(
        """
        const panel = window.jupyterapp.shell.currentWidget.content.node;
        const explorer = arguments[0].querySelector(".longrope-lab-explorer");
        return [panel.clientWidth - arguments[0].offsetWidth,
                panel.clientHeight - arguments[0].offsetHeight,
                explorer.clientWidth - explorer.scrollWidth];
        """,
        cell,
    )
    assert min(room) >= 0, room


def says_to_run_again(browser, cell):
    """Whether the words under an explorer are shown."""
    words = cell.find_elements(By.CSS_SELECTOR, ".longrope-lab-explorer-stopped")
    return [each.is_displayed() for each in words]


def test_sliders_redraw_their_figures(browser, jupyter, tmp_path):
    run_all(browser, jupyter, "01_rope_and_interpolation")
    moves = {
        "explore_angles": {
            "position n": Keys.ARROW_LEFT,
            "ratio s": Keys.ARROW_RIGHT,
            "n̂": Keys.END,
        },
        "explore_scaling": {
            "pair i": Keys.ARROW_RIGHT,
            "wave of": Keys.ARROW_RIGHT,
            "n̂": Keys.ARROW_RIGHT,
        },
    }
    for source, sliders in moves.items():
        cell = show_cell(browser, source)
        for name, key in sliders.items():
            move(browser, cell, name, key)
        cell = show_cell(browser, source)
        browser.save_screenshot(str(tmp_path / f"{source}.png"))
        fits(browser, cell)
        assert says_to_run_again(browser, cell) == [False]
    browser.execute_async_script("""
        const done = arguments[0];
        const session = window.jupyterapp.shell.currentWidget.sessionContext.session;
        session.kernel.restart().then(done, done);
    """)
    for source in moves:
        cell = show_cell(browser, source)
        wait(browser, lambda b, c=cell: says_to_run_again(b, c) == [True], "no words under it")
        browser.save_screenshot(str(tmp_path / f"{source}_stopped.png"))


def test_passkeys_and_an_edit_that_is_measured(browser, jupyter, tmp_path):
    edit = 'editor = lab.widgets.edit_factors(model, docs[0], widest["yarn"], length=256)\neditor'
    run_all(
        browser,
        jupyter,
        "00_quickstart",
        [edit],
        documents=1,
        lengths=[256, 600],
        key_lengths=[256, 600],
        trials=1,
    )
    cell = show_cell(browser, "explore_passkeys")
    before = cell.text
    buttons = wait(
        browser,
        lambda _: cell.find_elements(By.CSS_SELECTOR, "button[title^='600 tokens']"),
        "no cells",
    )
    buttons[0].click()
    wait(
        browser,
        lambda _: "600 tokens, key at" in cell.text and cell.text != before,
        "the click shows no prompt",
    )
    browser.save_screenshot(str(tmp_path / "passkeys.png"))
    fits(browser, show_cell(browser, "explore_passkeys"))

    cell = show_cell(browser, "edit_factors")
    picture(browser, cell)
    assert (
        ask(browser, 'editor.scaling == widest["yarn"] and len(editor.edits)') == "1"
    )  # to show it is no edit
    first = cell.find_element(By.CSS_SELECTOR, ".widget-html b").text
    move(browser, cell, "λ 0", Keys.ARROW_UP * 20)

    def measured(_):
        now = cell.find_element(By.CSS_SELECTOR, ".widget-html b").text
        return now.startswith("perplexity") and now != first

    wait(browser, measured, "the edit is not measured")
    cell = show_cell(browser, "edit_factors", "end")
    assert int(ask(browser, "len(editor.edits)")) > 1
    browser.save_screenshot(str(tmp_path / "edit.png"))
    fits(browser, cell)
    assert "λ 0: " in cell.text and "followed" in cell.text
