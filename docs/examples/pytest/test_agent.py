from agent import reply


def test_the_customer_is_told_where_the_order_is(replay):
    assert "Thursday" in reply("Where is my order A-17?")


def test_every_test_begins_the_run_anew(replay):
    assert "Thursday" in reply("Where is my order A-17?")
