"""The square to draw in, in a real browser: what it shows are Python's numbers."""

import base64
import re

import jax
import jax.numpy as jnp
import nbformat
import numpy as np
import pytest

SIDE = 28
A_4 = [
    [(10, 7), (8.5, 11), (9, 14), (18, 13)],  # (x, y) in pixels
    [(19, 7), (17, 14), (16, 22)],
]


@pytest.fixture(scope="module")
def report_page(browser, report):
    """The report, for all tests."""
    page = browser.new_page()
    page.goto((report / "bernoulli_em.html").as_uri())
    return page


@pytest.fixture
def square(report_page):
    """The square where the reader finds it, empty, on a screen of 1,100 points."""
    report_page.set_viewport_size({"width": 1100, "height": 900})
    square = in_view(report_page)
    square.get_by_role("checkbox").uncheck()
    set_temperature(square, 1)
    clear(square)
    return square


@pytest.fixture(scope="module")
def cells(report):
    """The notebook's cells as they were run."""
    return nbformat.read(report / "bernoulli_em.ipynb", as_version=4).cells


@pytest.fixture(scope="module")
def printed(cells):
    """What Python says of our 3."""
    (cell,) = [cell for cell in cells if cell.id == "draw-code"]
    return "".join(output.text for output in cell.outputs)


@pytest.fixture(scope="module")
def html(cells):
    """The HTML that the notebook's cell shows."""
    for cell in cells:
        for output in cell.get("outputs", []):
            html = output.get("data", {}).get("text/html", "")
            if "draw-it-yourself" in html:
                return html
    raise LookupError("no cell of the notebook shows a square to draw in")


@pytest.fixture
def new_page(browser):
    """An empty page."""
    page = browser.new_page()
    yield page
    page.close()


@pytest.fixture
def new_square(new_page, html):
    """The square as it begins, alone on a page."""
    new_page.set_content(html)
    return in_view(new_page)


def in_view(page):
    """The square of a page, scrolled to where one can draw in it."""
    found = page.locator(".draw-it-yourself")
    found.scroll_into_view_if_needed()
    return found


# What a reader does


def on_screen(square, point):
    """Where a point of the drawing, in pixels of an image, lies in the window."""
    x, y = point
    box = square.locator(".drawing").bounding_box()
    inside = box["width"] - 2  # a border of one point
    left = box["x"] + 1 + inside * x / SIDE
    top = box["y"] + 1 + inside * y / SIDE
    return left, top


def draw(square, strokes):
    """Draw with the mouse."""
    mouse = square.page.mouse
    for first, *others in strokes:
        mouse.move(*on_screen(square, first))
        mouse.down()
        for point in others:
            mouse.move(*on_screen(square, point), steps=5)
        mouse.up()


def touch(square, *changes):
    """Send events of a touch screen: a kind, and the fingers that it's about."""
    session = square.page.context.new_cdp_session(square.page)
    for kind, fingers in changes:
        touch_points = []
        for number, point in fingers.items():
            x, y = on_screen(square, point)
            touch_points.append({"id": number, "x": x, "y": y})
        event = {"type": kind, "touchPoints": touch_points}
        session.send("Input.dispatchTouchEvent", event)


def clear(square):
    square.get_by_role("button", name="clear").click()


def slider_of(square):
    return square.get_by_role("slider")


def set_temperature(square, temperature):
    slider_of(square).fill(str(temperature))


def draw_a_4(square):
    draw(square, A_4)


def hide_lower_half(square):
    square.get_by_label("hide lower half").check()


def hide_half_of_a_4(square):
    draw_a_4(square)
    hide_lower_half(square)


# What a reader sees


def drawn(square):
    """The drawing, (n_pixels,) bool."""
    digits = square.get_attribute("data-drawn")
    return np.array(list(digits)) == "1"


def seen(em, square):
    """What the model may see of the drawing: a BinaryData of one row."""
    row = drawn(square)[None]
    if not square.get_by_role("checkbox").is_checked():
        return em.BinaryData(on=row)
    upper_half = np.arange(row.size) < row.size // 2
    return em.BinaryData(on=row, seen=upper_half[None])


def mixture_of(em, square):
    """The mixture in the page: weights, and the means' log-odds in ninths."""
    packed_weights = base64.b64decode(square.get_attribute("data-cluster-weights"))
    packed_log_odds = base64.b64decode(square.get_attribute("data-log-odds"))
    weights = np.frombuffer(packed_weights, dtype="<f4")
    ninths = np.frombuffer(packed_log_odds, dtype=np.int8)
    log_odds = ninths.reshape(len(weights), -1).astype(np.float32) / 9
    return em.BernoulliMixture(
        cluster_weights=jnp.asarray(weights), cluster_means=jax.nn.sigmoid(log_odds)
    )


def text_of(square, selector):
    """A text of the page, with Python's minus."""
    return square.locator(selector).text_content().replace("−", "-")


def log_p_of(square):
    """The log-likelihood that is shown."""
    (nats,) = re.findall(r"= (.*) nats", text_of(square, ".log-p"))
    return float(nats)


def bars_of(square):
    """The clusters whose bars are shown, and their responsibilities, in order."""
    names = square.locator("li .name").all_text_contents()
    shares = square.locator("li .share").all_text_contents()
    clusters = [int(name.removeprefix("cluster ")) for name in names]
    return clusters, np.array(shares, dtype=float)


def picture_of(canvas):
    """The ink of a canvas, (n_pixels,): 0 is white, 1 black."""
    script = """canvas => {
        const context = canvas.getContext("2d");
        return [...context.getImageData(0, 0, canvas.width, canvas.height).data];
    }"""
    red = np.array(canvas.evaluate(script))[::4]
    return 1 - red / 255


def assert_shows_pythons_numbers(em, square):
    """The log-likelihood, the five largest responsibilities, and what is expected.

    The temperature of the responsibilities is the slider's.
    """
    mixture = mixture_of(em, square)
    row = seen(em, square)
    (log_p,) = em.log_likelihood(mixture, row)
    assert log_p_of(square) == pytest.approx(float(log_p), abs=0.1)

    temperature = float(slider_of(square).input_value())
    log_joint = em.log_joint_prob(mixture, row)[0]
    r = np.asarray(jax.nn.softmax(log_joint / temperature))
    clusters, shares = bars_of(square)
    np.testing.assert_allclose(shares, r[clusters], atol=0.01)
    np.testing.assert_allclose(shares, np.sort(r)[::-1][:5], atol=0.01)

    expected = r @ mixture.cluster_means
    if row.seen is not None:
        expected = np.where(row.seen[0], row.on[0], expected)
    shown = picture_of(square.locator(".expected"))
    np.testing.assert_allclose(shown, expected, atol=0.005)


def test_it_begins_with_our_3(new_square, mnist):
    _, (test_images, _) = mnist
    np.testing.assert_array_equal(drawn(new_square), test_images[5284].ravel())


def test_it_begins_with_pythons_numbers(em, new_square):
    assert slider_of(new_square).input_value() == "1"
    assert_shows_pythons_numbers(em, new_square)


@pytest.mark.parametrize("temperature", [1, 9])
def test_of_our_3_it_shows_what_the_notebook_prints(new_square, printed, temperature):
    line = rf"temperature {temperature}: clusters (.*) with responsibilities (.*)"
    ((clusters, shares),) = re.findall(line, printed)
    set_temperature(new_square, temperature)
    shown_clusters, shown_shares = bars_of(new_square)
    assert shown_clusters[0] == int(clusters.split()[0])
    np.testing.assert_allclose(shown_shares, np.array(shares.split(), float), atol=0.01)


@pytest.mark.parametrize("temperature", [1, 9])
@pytest.mark.parametrize(
    "prepare",
    [
        pytest.param(draw_a_4, id="a drawn 4"),
        pytest.param(hide_half_of_a_4, id="upper half of a drawn 4"),
        pytest.param(clear, id="an empty square"),
    ],
)
def test_it_shows_pythons_numbers(em, square, prepare, temperature):
    prepare(square)
    set_temperature(square, temperature)
    assert_shows_pythons_numbers(em, square)


def test_a_bar_is_as_long_as_its_responsibility(square):
    hide_half_of_a_4(square)
    _, shares = bars_of(square)
    bars = square.locator(".bar").evaluate_all(
        "bars => bars.map(bar => bar.clientWidth / bar.parentElement.clientWidth)"
    )
    np.testing.assert_allclose(bars, shares, atol=0.02)


def test_beside_a_bar_stands_the_prototype_of_its_cluster(em, square):
    means = mixture_of(em, square).cluster_means
    clusters, _ = bars_of(square)
    shown = [picture_of(canvas) for canvas in square.locator("li canvas").all()]
    np.testing.assert_allclose(shown, means[np.array(clusters)], atol=0.005)


def test_half_of_a_4_is_completed_as_python_completes_it(em, square):
    hide_half_of_a_4(square)
    (expected,) = em.complete_images(mixture_of(em, square), seen(em, square))
    shown = picture_of(square.locator(".expected"))
    np.testing.assert_allclose(shown, expected, atol=0.005)


def test_what_is_hidden_changes_no_number(square):
    hide_half_of_a_4(square)
    set_temperature(square, 9)
    before = text_of(square, "#in-words")
    draw(square, [[(5, 20), (22, 25)]])
    assert text_of(square, "#in-words") == before


def test_the_left_picture_is_the_drawing(square):
    draw_a_4(square)
    shown = picture_of(square.locator(".drawing"))
    np.testing.assert_array_equal(shown, drawn(square))


def test_a_label_says_in_words_what_is_shown(square):
    draw_a_4(square)
    clusters, shares = bars_of(square)
    bars = [f"cluster {k}: {share:.2f}" for k, share in zip(clusters, shares)]
    words = text_of(square, ".log-p") + "; " + ", ".join(bars)
    assert text_of(square, "[aria-live=polite]") == words


def test_the_label_says_how_many_pixels_count_as_one_if_it_is_more_than_one(square):
    draw_a_4(square)
    set_temperature(square, 9)
    beginning = text_of(square, ".log-p") + "; 9 pixels count as one; cluster"
    assert text_of(square, "[aria-live=polite]").startswith(beginning)


# The slider


def test_the_slider_leaves_the_log_likelihood(square):
    draw_a_4(square)
    before = text_of(square, ".log-p")
    set_temperature(square, 20)
    assert text_of(square, ".log-p") == before


def test_the_keyboard_moves_the_slider_from_1_to_20(square):
    slider = slider_of(square)
    for key, value in [
        ("ArrowLeft", "1"),
        ("ArrowRight", "2"),
        ("ArrowUp", "3"),
        ("ArrowDown", "2"),
        ("End", "20"),
        ("ArrowRight", "20"),
        ("Home", "1"),
    ]:
        slider.press(key)
        assert slider.input_value() == value, key


def test_the_slider_says_its_value(square):
    slider = slider_of(square)
    shown = square.locator(".witnesses span")
    assert slider.get_attribute("aria-valuetext") == "each pixel counts"
    assert shown.text_content() == "1"
    set_temperature(square, 9)
    assert slider.get_attribute("aria-valuetext") == "9 pixels count as one"
    assert shown.text_content() == "9"


def test_the_bars_follow_the_slider_before_it_is_let_go(em, square):
    draw_a_4(square)
    box = slider_of(square).bounding_box()
    middle = box["y"] + box["height"] / 2
    mouse = square.page.mouse
    mouse.move(box["x"] + 8, middle)  # where it stands at 1
    mouse.down()
    mouse.move(box["x"] + box["width"] / 2, middle, steps=5)
    assert slider_of(square).input_value() in ("10", "11")
    assert_shows_pythons_numbers(em, square)
    mouse.up()


def test_the_slider_stays_when_one_clears_hides_and_draws(square):
    set_temperature(square, 9)
    draw_a_4(square)
    clear(square)
    hide_lower_half(square)
    assert slider_of(square).input_value() == "9"


def test_the_drawing_stays_when_one_moves_the_slider(square):
    draw_a_4(square)
    before = drawn(square)
    set_temperature(square, 9)
    np.testing.assert_array_equal(drawn(square), before)


# Drawing

LINE = [(14.5, 6.5), (14.5, 12), (14.5, 20.5)]


def assert_shows_only_the_line(square):
    expected = np.zeros((SIDE, SIDE), dtype=bool)
    expected[6:21, 13:16] = True  # three pixels wide, as MNIST's strokes are
    expected[5, 14] = True  # a round tip
    expected[21, 14] = True
    np.testing.assert_array_equal(drawn(square).reshape(SIDE, SIDE), expected)


def test_the_mouse_draws_a_line(square):
    draw(square, [LINE])
    assert_shows_only_the_line(square)


def test_the_mouse_draws_only_while_its_left_button_is_pressed(square):
    draw(square, [LINE])
    mouse = square.page.mouse
    mouse.move(*on_screen(square, (5, 25)))
    mouse.move(*on_screen(square, (25, 5)), steps=5)
    mouse.down(button="right")
    mouse.move(*on_screen(square, (25, 25)), steps=5)
    mouse.up(button="right")
    assert_shows_only_the_line(square)


def test_a_second_finger_neither_draws_nor_stops_the_first(square):
    begin, middle, end = LINE
    touch(
        square,
        ("touchStart", {1: begin}),
        ("touchStart", {1: begin, 2: (5, 5)}),
        ("touchMove", {1: begin, 2: (5, 25)}),
        ("touchEnd", {2: (5, 25)}),
        ("touchMove", {1: middle}),
        ("touchMove", {1: end}),
        ("touchEnd", {1: end}),
    )
    assert_shows_only_the_line(square)


# Where it stands, and for whom


def test_each_part_has_a_name(square):
    names = [
        ("img", "your drawing"),
        ("img", "the model expects"),
        ("button", "clear"),
        ("checkbox", "hide lower half"),
        ("slider", "how many pixels count as one witness"),
        ("list", "the five prototypes that share the drawing most"),
    ]
    for role, name in names:
        assert square.get_by_role(role, name=name, exact=True).count() == 1, name


def test_the_keyboard_reaches_the_drawing_the_button_the_box_and_the_slider(square):
    draw(square, [LINE])
    keyboard = square.page.keyboard
    square.get_by_role("button", name="clear").focus()
    keyboard.press("Shift+Tab")
    assert square.locator(".drawing:focus").count() == 1
    keyboard.press("Tab")
    keyboard.press("Enter")
    assert not drawn(square).any()
    keyboard.press("Tab")
    keyboard.press("Space")
    assert square.get_by_role("checkbox").is_checked()
    keyboard.press("Tab")
    keyboard.press("ArrowRight")
    assert slider_of(square).input_value() == "2"


def test_jupyterlab_leaves_it_the_arrow_keys(square):
    """There they would move from cell to cell, were it not for this attribute."""
    assert square.get_attribute("data-lm-suppress-shortcuts") == "true"


def test_nothing_sticks_out_of_the_page(square):
    for width in (400, 700, 1100):
        square.page.set_viewport_size({"width": width, "height": 900})
        parts = square.locator("canvas, .share, button, label, input, .witnesses span")
        ends = parts.evaluate_all(
            "parts => parts.map(part => part.getBoundingClientRect().right)"
        )
        assert max(ends) <= width


def test_on_a_phone_the_pictures_stand_side_by_side_and_are_large_enough(square):
    square.page.set_viewport_size({"width": 400, "height": 900})
    drawing = square.locator(".drawing").bounding_box()
    expected = square.locator(".expected").bounding_box()
    assert drawing["y"] == expected["y"]
    assert drawing["width"] == expected["width"] > 150


def test_on_a_phone_the_slider_is_large_enough_for_a_finger(square):
    square.page.set_viewport_size({"width": 400, "height": 900})
    box = slider_of(square).bounding_box()
    assert box["width"] > 250
    assert box["height"] >= 24


def test_of_two_on_one_page_only_the_one_drawn_in_changes(new_page, html):
    new_page.set_content(html + html)
    first, second = new_page.locator(".draw-it-yourself").all()
    before = drawn(first)
    clear(second)
    set_temperature(second, 9)
    np.testing.assert_array_equal(drawn(first), before)
    assert not drawn(second).any()
    assert text_of(first, ".witnesses span") == "1"
    assert text_of(second, ".witnesses span") == "9"


def test_the_still_picture_is_gone(square):
    assert not square.get_by_text("This is a still picture. To draw,").is_visible()


def test_without_scripts_it_is_a_picture_and_says_where_it_moves(browser, html):
    page = browser.new_page(java_script_enabled=False)
    page.set_content(html)
    still = in_view(page)
    assert still.get_by_role("img", name="A square with our 3 in it").is_visible()
    assert still.get_by_text("This is a still picture. To draw,").is_visible()
    page.close()


def test_it_fetches_nothing(new_page, html):
    addresses = []
    new_page.on("request", lambda request: addresses.append(request.url))
    new_page.set_content(html)
    draw_a_4(in_view(new_page))
    assert [url for url in addresses if not url.startswith("data:")] == []
